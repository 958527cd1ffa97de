//! The forerunner's head start: it begins at this program's first instruction, before the C library.
//!
//! The C library, the standard library and the command line take about as long as the kernel takes to make a network namespace. So
//! where the program's [entry point](nix_build_shell_start) sees that a sandbox is most likely wanted, it creates the forerunner at
//! once, and the kernel works for it on another core meanwhile. What the forerunner does first is to map the program's text for both:
//! each fault that the kernel has taken in here is one less over there.
//!
//! No relocation has been done then, and there is no thread-local storage. So until its orders come, which is long after, the
//! forerunner only makes system calls on what is in registers, on its stack and in atomics; and so does the entry point. Memory is read
//! byte by byte and volatile, lest the compiler makes a call of the C library's `memcmp` or `strlen` of it.

use std::ffi::c_void;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::{ptr, slice};

use linux_raw_sys::auxvec::{AT_NULL, AT_PAGESZ, AT_PHDR, AT_PHNUM};
use linux_raw_sys::elf::{Elf_Phdr, PF_W, PT_LOAD, PT_PHDR};
use rustix::io::{Errno, Result, fcntl_getfd};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::thread::{futex, set_thread_groups};

use super::child::FAILED;
use super::clone3::{self, Child};
use crate::plan::Namespaces;
use crate::sys::{self, SignalSet};

/// Room for the forerunner's few frames, and, in its copy, for the child's.
const STACK: usize = 256 << 10;
/// How much of this process's own stack a start uses.
const NEAR_STACK: usize = 32 << 10;
/// How much is mapped at a time: who wants to map something else meanwhile has to wait for it.
const PIECE: usize = 512 << 10;

/// What this process and the forerunner share.
struct HeadStart {
    /// Who waits for it.
    parent: AtomicI32,
    /// The forerunner's number and pidfd: the number is zero where there is none, or it has been taken.
    forerunner: AtomicI32,
    pidfd: AtomicI32,
    /// Why the kernel refuses the namespaces, or zero.
    refusal: AtomicI32,
    /// One as soon as the orders are here.
    is_ordered: AtomicU32,
    function: AtomicPtr<c_void>,
    argument: AtomicPtr<c_void>,
    /// What the kernel has prepared for this program; null where it did not begin here.
    stack: AtomicPtr<usize>,
}

static HEAD_START: HeadStart = HeadStart {
    parent: AtomicI32::new(0),
    forerunner: AtomicI32::new(0),
    pidfd: AtomicI32::new(-1),
    refusal: AtomicI32::new(0),
    is_ordered: AtomicU32::new(0),
    function: AtomicPtr::new(ptr::null_mut()),
    argument: AtomicPtr::new(ptr::null_mut()),
    stack: AtomicPtr::new(ptr::null_mut()),
};

/// The forerunner that has a head start, if there is one that makes all of `namespaces`.
pub(super) fn take(namespaces: Namespaces) -> Option<Child> {
    if namespaces != Namespaces::all() {
        give_up();
    }
    take_any()
}

fn take_any() -> Option<Child> {
    let pid = Pid::from_raw(HEAD_START.forerunner.swap(0, Ordering::Relaxed))?;
    let pidfd = HEAD_START.pidfd.swap(-1, Ordering::Relaxed);
    // SAFETY: the kernel made this descriptor for us, and it is handed out once.
    Some(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the forerunner that nobody has taken: there is to be no sandbox, or another one.
pub fn give_up() {
    if let Some(forerunner) = take_any() {
        forerunner.end();
    }
}

/// Gives the forerunner, which has been [taken](take), what it is to do. It has made the namespaces that are not the process's own, or
/// cannot: [`refusal`] tells.
///
/// # Safety
/// As of [`clone3::spawn_sharing_all`].
pub(super) unsafe fn order(function: extern "C" fn(*mut c_void) -> !, argument: *mut c_void) {
    HEAD_START.function.store(function as *mut c_void, Ordering::Relaxed);
    HEAD_START.argument.store(argument, Ordering::Relaxed);
    HEAD_START.is_ordered.store(1, Ordering::Release);
    // It fails only for what is no futex.
    let _ = futex::wake(&HEAD_START.is_ordered, futex::Flags::PRIVATE, 1);
}

/// Why the forerunner could not make the namespaces; for itself to ask, when it has its orders.
pub(super) fn refusal() -> Result<()> {
    match HEAD_START.refusal.load(Ordering::Relaxed) {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// Unmaps the program's text, for a time in which there is nothing to do: at its end, for which somebody waits, there is the less to
/// unmap. What is still used is mapped again.
pub(super) fn unmap_text() {
    let stack = HEAD_START.stack.load(Ordering::Relaxed);
    if !stack.is_null() {
        // SAFETY: the kernel has prepared it, and it stays as it is.
        let program = unsafe { Program::on(stack) };
        // SAFETY: it is the program that runs, which cannot write to these.
        unsafe { program.each_piece(Segments::ReadOnly, sys::unmap_until_used) };
    }
}

/// Where the program begins: the linker is told so by `build.rs`. Gives the forerunner its head start, then goes to where the C library
/// begins, with all as the kernel left it.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn nix_build_shell_start() -> ! {
    // The kernel's stack pointer is 16-byte aligned, as it has to be at a call; rdx is for the C library.
    std::arch::naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "sub rsp, 16",
        "mov [rsp], rdx",
        "call {begin}",
        "mov rdx, [rsp]",
        "add rsp, 16",
        "jmp {c_library}",
        begin = sym begin,
        c_library = sym _start,
    )
}

/// Where the program begins: the linker is told so by `build.rs`. Gives the forerunner its head start, then goes to where the C library
/// begins, with all as the kernel left it.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn nix_build_shell_start() -> ! {
    // The kernel's stack pointer is 16-byte aligned, as it has to be always; x0 is for the C library.
    std::arch::naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "str x0, [sp, #-16]!",
        "add x0, sp, #16",
        "bl {begin}",
        "ldr x0, [sp], #16",
        "mov x30, xzr",
        "b {c_library}",
        begin = sym begin,
        c_library = sym _start,
    )
}

unsafe extern "C" {
    /// The C library's entry point, of `crt1.o` or its like.
    fn _start() -> !;
}

/// `stack` is what the kernel has prepared: the number of arguments, the arguments, the environment and the auxiliary vector.
unsafe extern "C" fn begin(stack: *const usize) {
    // SAFETY: so the kernel has prepared it.
    let program = unsafe { Program::on(stack) };
    // SAFETY: it is the program that runs.
    unsafe { program.each_piece(Segments::Writable, sys::map_for_writing) };
    sys::map_for_writing(program.page_of(stack.addr()) - NEAR_STACK, NEAR_STACK);
    HEAD_START.stack.store(stack.cast_mut(), Ordering::Relaxed);
    // SAFETY: as above.
    if !unsafe { program.is_for_a_directory() } {
        return;
    }
    // What is closed of these would be the number of the forerunner's descriptor.
    if [stdin(), stdout(), stderr()].into_iter().any(|standard| fcntl_getfd(standard).is_err()) {
        return;
    }
    // As for every sandbox, and before it: the forerunner has the groups that this process has now.
    let _ = set_thread_groups(&[]);
    HEAD_START.parent.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    let Ok(mapping) = sys::map_memory(STACK) else { return };
    // What is meant for this process does not concern the forerunner.
    let Ok(before) = sys::set_blocked_signals(SignalSet::ALL) else { return };
    // SAFETY: `run` makes system calls only. Its stack is never unmapped, and what `stack` points to stays as long as this process.
    let created = unsafe { clone3::spawn_sharing_all(Namespaces::USER, mapping, run, stack.cast_mut().cast()) };
    let _ = sys::set_blocked_signals(before);
    let Ok(Child { pid, pidfd }) = created else { return };
    HEAD_START.pidfd.store(pidfd.into_raw_fd(), Ordering::Relaxed);
    HEAD_START.forerunner.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
    // A new process begins in the queue of its parent's core.
    sys::leave_core();
}

/// The forerunner's function; `argument` is the `stack` of [`begin`].
extern "C" fn run(argument: *mut c_void) -> ! {
    let die_with_parent = set_parent_process_death_signal(Some(Signal::KILL));
    let parent = HEAD_START.parent.load(Ordering::Relaxed);
    if die_with_parent.is_err() || getppid() != Pid::from_raw(parent) {
        sys::exit(FAILED);
    }
    // SAFETY: `begin` has read it in the same way.
    let program = unsafe { Program::on(argument.cast()) };
    // SAFETY: it is the program that runs.
    unsafe { program.each_piece(Segments::ReadOnly, sys::map_for_reading) };
    if let Err(errno) = sys::unshare(Namespaces::MADE_AHEAD) {
        HEAD_START.refusal.store(errno.raw_os_error(), Ordering::Relaxed);
    }
    while HEAD_START.is_ordered.load(Ordering::Acquire) == 0 {
        let _ = futex::wait(&HEAD_START.is_ordered, futex::Flags::PRIVATE, 0, None);
    }
    let function = HEAD_START.function.load(Ordering::Relaxed);
    // SAFETY: `order` has stored a function of this type.
    let function: extern "C" fn(*mut c_void) -> ! = unsafe { std::mem::transmute(function) };
    function(HEAD_START.argument.load(Ordering::Relaxed))
}

/// Parts of the program as the linker has laid it out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segments {
    Writable,
    ReadOnly,
}

/// What the kernel tells a program on its stack.
#[derive(Clone, Copy)]
struct Program {
    arguments: *const *const u8,
    headers: *const Elf_Phdr,
    header_count: usize,
    page_size: usize,
}

impl Program {
    /// Finds its parts.
    ///
    /// # Safety
    /// `stack` is a program's first stack pointer.
    unsafe fn on(stack: *const usize) -> Self {
        // SAFETY: the number of arguments comes first.
        let count = unsafe { stack.read_volatile() };
        // SAFETY: then come the arguments, and a null pointer.
        let arguments = unsafe { stack.add(1) };
        // SAFETY: as above.
        let mut environment = unsafe { arguments.add(count + 1) };
        // SAFETY: the environment ends with a null pointer too.
        while unsafe { environment.read_volatile() } != 0 {
            // SAFETY: as above.
            environment = unsafe { environment.add(1) };
        }
        // SAFETY: behind it is the auxiliary vector.
        let mut auxiliary: *const [usize; 2] = unsafe { environment.add(1) }.cast();
        let mut program = Self { arguments: arguments.cast(), headers: ptr::null(), header_count: 0, page_size: 1 };
        loop {
            // SAFETY: the vector ends with AT_NULL.
            let [kind, value] = unsafe { auxiliary.read_volatile() };
            match kind as u32 {
                AT_NULL => return program,
                AT_PHDR => program.headers = ptr::with_exposed_provenance(value),
                AT_PHNUM => program.header_count = value,
                AT_PAGESZ => program.page_size = value,
                _ => {}
            }
            // SAFETY: as above.
            auxiliary = unsafe { auxiliary.add(1) };
        }
    }

    /// Whether the first argument that is no option is a path, as that of a kept directory usually is, and of no subcommand the name.
    ///
    /// Where this is wrong nothing but the time of the other core is lost.
    ///
    /// # Safety
    /// As of [`on`](Self::on).
    unsafe fn is_for_a_directory(self) -> bool {
        let mut next = self.arguments;
        // SAFETY: without arguments the null pointer is the first.
        while !unsafe { next.read_volatile() }.is_null() {
            // SAFETY: there is one behind each but the null pointer.
            next = unsafe { next.add(1) };
            // SAFETY: as above.
            let mut argument = unsafe { next.read_volatile() };
            // SAFETY: an argument ends with a NUL byte.
            if argument.is_null() || unsafe { argument.read_volatile() } == b'-' {
                continue;
            }
            loop {
                // SAFETY: as above.
                match unsafe { argument.read_volatile() } {
                    b'/' => return true,
                    0 => return false,
                    // SAFETY: that was not the last byte.
                    _ => argument = unsafe { argument.add(1) },
                }
            }
        }
        false
    }

    /// Calls `action` with the beginning and the size of each piece of these segments.
    ///
    /// # Safety
    /// As of [`on`](Self::on), and of the action where it is called for these segments of the program.
    unsafe fn each_piece(self, segments: Segments, action: unsafe fn(usize, usize)) {
        if self.headers.is_null() {
            return;
        }
        // SAFETY: the kernel told where the headers are, and how many.
        let headers = unsafe { slice::from_raw_parts(self.headers, self.header_count) };
        let mut moved_by = 0;
        for header in headers {
            // The table of headers itself comes first.
            if header.p_type == PT_PHDR {
                moved_by = self.headers.addr().wrapping_sub(header.p_vaddr);
            }
            let is_wanted = (header.p_flags & PF_W != 0) == (segments == Segments::Writable);
            if header.p_type != PT_LOAD || !is_wanted {
                continue;
            }
            let begin = moved_by.wrapping_add(header.p_vaddr);
            let end = begin.wrapping_add(header.p_memsz);
            let mut piece = self.page_of(begin);
            while piece < end {
                let size = if end - piece > PIECE { PIECE } else { end - piece };
                // SAFETY: the caller's promise.
                unsafe { action(piece, size) };
                piece += size;
            }
        }
    }

    fn page_of(self, address: usize) -> usize {
        address & !(self.page_size - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ffi::CString;

    use super::*;

    /// The stack of a program that is called with these words and has these headers.
    fn stack(words: &[CString], headers: &[Elf_Phdr]) -> Vec<usize> {
        let mut stack = vec![words.len()];
        stack.extend(words.iter().map(|word| word.as_ptr().expose_provenance()));
        stack.extend([0, c"NAME=/value".as_ptr().expose_provenance(), 0]);
        stack.extend([AT_PHNUM as usize, headers.len(), AT_PAGESZ as usize, 4096]);
        stack.extend([AT_PHDR as usize, headers.as_ptr().expose_provenance(), AT_NULL as usize, 0]);
        stack
    }

    fn is_for_a_directory(line: &str) -> bool {
        let words: Vec<_> = line.split_whitespace().map(|word| CString::new(word).unwrap()).collect();
        let stack = stack(&words, &[]);
        // SAFETY: it is made like the kernel's.
        let program = unsafe { Program::on(stack.as_ptr()) };
        // SAFETY: as above.
        unsafe { program.is_for_a_directory() }
    }

    #[test]
    fn a_head_start_is_given_for_a_path_and_for_no_subcommand() {
        for line in
            ["shell /tmp/dir", "shell ./dir make", "shell --store=full -v dir/ make", "shell --store-root /r dir"]
        {
            assert!(is_for_a_directory(line), "{line}");
        }
        for line in ["", "shell", "shell --help", "shell dir", "shell phases /tmp/dir", "/bin/shell", "shell -v"] {
            assert!(!is_for_a_directory(line), "{line}");
        }
    }

    thread_local! {
        static PIECES: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    }

    fn note(begin: usize, size: usize) {
        PIECES.with_borrow_mut(|pieces| pieces.push((begin, size)));
    }

    fn pieces(headers: &[Elf_Phdr], segments: Segments) -> Vec<(usize, usize)> {
        let stack = stack(&[], headers);
        // SAFETY: it is made like the kernel's.
        let program = unsafe { Program::on(stack.as_ptr()) };
        // SAFETY: what is called does nothing with the addresses.
        unsafe { program.each_piece(segments, note) };
        PIECES.take()
    }

    fn header(p_type: u32, p_flags: u32, p_vaddr: usize, p_memsz: usize) -> Elf_Phdr {
        Elf_Phdr { p_type, p_flags, p_offset: 0, p_vaddr, p_paddr: p_vaddr, p_filesz: p_memsz, p_memsz, p_align: 8 }
    }

    #[test]
    fn the_segments_are_whole_pages_where_the_program_was_loaded() {
        const TEXT: usize = 0x1000;
        let headers = [
            header(PT_PHDR, 4, 0x40, 0x100),
            header(PT_LOAD, 5, TEXT, PIECE + 1),
            header(PT_LOAD, 6, 0x20_0010, 0x20),
            header(2, 6, 0x20_0010, 0x10),
        ];
        let moved_by = headers.as_ptr().addr().wrapping_sub(0x40);
        // Where the headers of a real program are, its pages begin.
        let page_of = |address: usize| moved_by.wrapping_add(address) & !4095;
        let end_of = |address: usize| moved_by.wrapping_add(address);
        let text = page_of(TEXT);
        assert_eq!(
            pieces(&headers, Segments::ReadOnly),
            [(text, PIECE), (text + PIECE, end_of(TEXT + PIECE + 1) - text - PIECE)]
        );
        let data = page_of(0x20_0010);
        assert_eq!(pieces(&headers, Segments::Writable), [(data, end_of(0x20_0030) - data)]);
    }
}
