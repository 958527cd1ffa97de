//! How many files this process may have open. Makes system calls only.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lifts the limit of open descriptors, since each level of nested directories takes two; the old limit comes back when this value
/// goes, for the sandbox's processes inherit it.
pub(crate) struct DescriptorLimit {
    before: Rlimit,
}

impl DescriptorLimit {
    /// Lifts it.
    pub(crate) fn raise() -> Self {
        let before = getrlimit(Resource::Nofile);
        // Where it cannot be lifted the old one will do for almost every tree.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
        Self { before }
    }
}

impl Drop for DescriptorLimit {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.before);
    }
}
