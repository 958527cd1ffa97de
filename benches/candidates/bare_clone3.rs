//! The floor: a process in the same new namespaces that executes the no-op at once and sets nothing up.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result, ensure};
use nix_build_shell::plan::Namespaces;
use nix_build_shell::sandbox::clone3;

unsafe extern "C" {
    /// The C library's is the system call and nothing more, so the child may call it.
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Runs `noop` in all namespaces, by the same system call as the sandbox.
pub fn candidate(noop: &Path) -> Result<impl FnMut() -> Result<()> + use<>> {
    let path = CString::new(noop.as_os_str().as_bytes())?;
    Ok(move || {
        // SAFETY: `execute` makes two system calls and nothing else.
        let child = unsafe { clone3::spawn_in(Namespaces::all(), execute, path.as_ptr() as *mut c_void) }
            .context("the kernel refuses new namespaces")?;
        let status = child.wait()?;
        let code = status.and_then(|status| status.exit_status());
        ensure!(code == Some(0), "the no-op in bare namespaces ended with status {code:?}");
        Ok(())
    })
}

extern "C" fn execute(path: *mut c_void) -> ! {
    let path: *const c_char = path.cast();
    let argv = [path, ptr::null()];
    let envp = [ptr::null()];
    // SAFETY: the parent gave a path that ends in a NUL byte; both arrays end in a null pointer.
    unsafe { execve(path, argv.as_ptr(), envp.as_ptr()) };
    // SAFETY: ends this process, which has nothing to tidy up.
    unsafe { _exit(127) }
}
