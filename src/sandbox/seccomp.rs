//! Which system calls a build may not make. The kernel runs the filter before each call.
//!
//! It refuses what Nix 2.26 to 2.34 refuse, on every architecture that the kernel runs programs of, two requests to a terminal that
//! would type into it, since the command may have the caller's as its standard output, and the kernel's keys, since the command is the
//! caller to them: no namespace keeps his tickets and passwords from whoever has their numbers.
//!
//! For the calls that a filter allows whatever their arguments are, the kernel finds that out beforehand and does not run it again.
//! So a call that is not in the tables below must be allowed by its number alone.

use linux_raw_sys::general::{S_ISGID, S_ISUID};
use linux_raw_sys::ioctl::{TIOCLINUX, TIOCSTI};
use linux_raw_sys::ptrace::{
    EM_386, EM_AARCH64, EM_ARM, EM_X86_64, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_THREAD,
};
use rustix::io::Errno;

use super::bpf::{Place, Program};
use crate::sys::BpfInstruction;

/// What a call is, where the filter does not simply allow it.
#[derive(Clone, Copy)]
enum Kind {
    /// Sets a mode, which is argument 1: EPERM with a set-user-id or set-group-id bit in it.
    ModeIsArgument1,
    /// The same with argument 2.
    ModeIsArgument2,
    /// Sets or gets an extended attribute: ENOTSUP. Nix 2.8 refuses only to set them, Nix 2.35 to list them as well; all allow to
    /// remove them, and the calls of Linux 6.13 whose names end in `at`.
    ExtendedAttribute,
    /// A request to a device: EPERM for those that type into a terminal or speak to a console. This is not Nix's.
    Ioctl,
    /// Makes, finds, reads or changes a key: ENOSYS, as of a kernel without keys, which programs are prepared for. Nor is this Nix's:
    /// a build user has no keys.
    Key,
}

/// The system calls of one architecture.
struct Architecture {
    /// Its `AUDIT_ARCH_*` number: that of its ELF machine, with a bit for 64 and one for little-endian.
    audit: u32,
    /// Bits that make no difference in a number.
    ignored_bits: u32,
    /// Ranges of numbers, both ends included and in ascending order, and what these calls are.
    calls: &'static [(u32, u32, Kind)],
}

const AUDIT_64BIT: u32 = 0x8000_0000;
const AUDIT_LITTLE_ENDIAN: u32 = 0x4000_0000;
const X32_BIT: u32 = 0x4000_0000;

/// x86_64, and with it x32, whose numbers are the same but for a bit, and for that of ioctl.
const X86_64: Architecture = Architecture {
    audit: EM_X86_64 | AUDIT_64BIT | AUDIT_LITTLE_ENDIAN,
    ignored_bits: X32_BIT,
    calls: &[
        (16, 16, Kind::Ioctl),
        (90, 91, Kind::ModeIsArgument1),     // chmod, fchmod
        (188, 193, Kind::ExtendedAttribute), // setxattr, lsetxattr, fsetxattr, getxattr, lgetxattr, fgetxattr
        (248, 250, Kind::Key),               // add_key, request_key, keyctl
        (268, 268, Kind::ModeIsArgument2),   // fchmodat
        (452, 452, Kind::ModeIsArgument2),   // fchmodat2
        (514, 514, Kind::Ioctl),             // of x32
    ],
};

const I386: Architecture = Architecture {
    audit: EM_386 | AUDIT_LITTLE_ENDIAN,
    ignored_bits: 0,
    calls: &[
        (15, 15, Kind::ModeIsArgument1), // chmod
        (54, 54, Kind::Ioctl),
        (94, 94, Kind::ModeIsArgument1),     // fchmod
        (226, 231, Kind::ExtendedAttribute), // in the same order
        (286, 288, Kind::Key),               // in the same order
        (306, 306, Kind::ModeIsArgument2),   // fchmodat
        (452, 452, Kind::ModeIsArgument2),   // fchmodat2
    ],
};

const AARCH64: Architecture = Architecture {
    audit: EM_AARCH64 | AUDIT_64BIT | AUDIT_LITTLE_ENDIAN,
    ignored_bits: 0,
    calls: &[
        (5, 10, Kind::ExtendedAttribute), // in the same order
        (29, 29, Kind::Ioctl),
        (52, 52, Kind::ModeIsArgument1),   // fchmod
        (53, 53, Kind::ModeIsArgument2),   // fchmodat
        (217, 219, Kind::Key),             // in the same order
        (452, 452, Kind::ModeIsArgument2), // fchmodat2
    ],
};

/// 32-bit ARM, with the calls of the EABI, the only ones that a 64-bit kernel has.
const ARM: Architecture = Architecture {
    audit: EM_ARM | AUDIT_LITTLE_ENDIAN,
    ignored_bits: 0,
    calls: &[
        (15, 15, Kind::ModeIsArgument1), // chmod
        (54, 54, Kind::Ioctl),
        (94, 94, Kind::ModeIsArgument1),     // fchmod
        (226, 231, Kind::ExtendedAttribute), // in the same order
        (309, 311, Kind::Key),               // in the same order
        (333, 333, Kind::ModeIsArgument2),   // fchmodat
        (452, 452, Kind::ModeIsArgument2),   // fchmodat2
    ],
};

/// A program that decides about each system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemCallFilter(Vec<BpfInstruction>);

impl SystemCallFilter {
    /// The filter of a build on this machine.
    pub fn of_build() -> Self {
        Self::of(&of_this_machine(), Scope::NixToo)
    }

    /// The filter where Nix has none (`filter-syscalls = false`): it keeps the command from typing into the caller's terminal, and
    /// from his keys.
    pub fn of_host() -> Self {
        Self::of(&of_this_machine(), Scope::OursOnly)
    }

    /// The filter for these architectures, the most frequent one first. As under Nix, a call of another one kills its thread.
    fn of(architectures: &[Architecture], scope: Scope) -> Self {
        let mut program = Program::default();
        let ends = Ends::put(&mut program, scope);
        let mut next = program.answer(SECCOMP_RET_KILL_THREAD);
        for architecture in architectures.iter().rev() {
            let decision = architecture.put_decision(&mut program, &ends);
            next = program.if_equal(architecture.audit, decision, next);
        }
        program.load_architecture();
        Self(program.finish())
    }

    /// The instructions as the kernel's `struct sock_filter` lays them out, one after the other, for whoever else loads filters.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.0.iter().flat_map(|instruction| {
            let [code_low, code_high] = instruction.code.to_ne_bytes();
            let [a, b, c, d] = instruction.operand.to_ne_bytes();
            [code_low, code_high, instruction.skip_if_true, instruction.skip_if_false, a, b, c, d]
        });
        bytes.collect()
    }

    /// The instructions as the kernel takes them.
    pub(super) fn instructions(&self) -> &[BpfInstruction] {
        &self.0
    }
}

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// What Nix refuses, and what is ours.
    NixToo,
    /// What is ours alone.
    OursOnly,
}

fn of_this_machine() -> [Architecture; 2] {
    if cfg!(target_arch = "x86_64") { [X86_64, I386] } else { [AARCH64, ARM] }
}

impl Architecture {
    fn put_decision(&self, program: &mut Program, ends: &Ends) -> Place {
        let mut ranges = vec![(0, ends.allow)];
        for &(first, last, kind) in self.calls {
            ranges.extend([(first, ends.of(kind)), (last + 1, ends.allow)]);
        }
        program.search(&ranges);
        if self.ignored_bits != 0 {
            program.clear(self.ignored_bits);
        }
        program.load_number()
    }
}

/// How a decision ends, for each kind of call. All architectures share these: arguments have the same places in each.
struct Ends {
    allow: Place,
    extended_attribute: Place,
    mode_is_argument_1: Place,
    mode_is_argument_2: Place,
    ioctl: Place,
    key: Place,
}

impl Ends {
    /// Modes and requests are numbers of 32 bits at most, and what is in the other half of such an argument must not matter.
    fn put(program: &mut Program, scope: Scope) -> Self {
        let fail_with = |errno: Errno| SECCOMP_RET_ERRNO | errno.raw_os_error().cast_unsigned();
        let allow = program.answer(SECCOMP_RET_ALLOW);
        let extended_attribute = program.answer(fail_with(Errno::NOTSUP));
        let key = program.answer(fail_with(Errno::NOSYS));
        let refuse = program.answer(fail_with(Errno::PERM));
        let [mode_is_argument_1, mode_is_argument_2] = [1, 2].map(|argument| {
            program.if_any_bit(S_ISUID | S_ISGID, refuse, allow);
            program.load_argument(argument)
        });
        let speaks_to_console = program.if_equal(TIOCLINUX, refuse, allow);
        program.if_equal(TIOCSTI, refuse, speaks_to_console);
        let ioctl = program.load_argument(1);
        match scope {
            Scope::NixToo => Self { allow, extended_attribute, mode_is_argument_1, mode_is_argument_2, ioctl, key },
            Scope::OursOnly => Self {
                allow,
                extended_attribute: allow,
                mode_is_argument_1: allow,
                mode_is_argument_2: allow,
                ioctl,
                key,
            },
        }
    }

    fn of(&self, kind: Kind) -> Place {
        match kind {
            Kind::ModeIsArgument1 => self.mode_is_argument_1,
            Kind::ModeIsArgument2 => self.mode_is_argument_2,
            Kind::ExtendedAttribute => self.extended_attribute,
            Kind::Ioctl => self.ioctl,
            Kind::Key => self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use linux_raw_sys::general;
    use linux_raw_sys::ptrace::seccomp_data;
    use rustix::fs::{Mode, fchmod, fgetxattr, flistxattr, fsetxattr};
    use rustix::thread::set_no_new_privs;

    use super::super::bpf::tests::{Outcome, run};
    use super::*;

    const ALLOWED: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOTSUP: u32 = 0x0005_005f;
    const ENOSYS: u32 = 0x0005_0026;
    const KILLED: u32 = 0;

    /// The numbers of linux/audit.h.
    const AUDIT_X86_64: u32 = 0xc000_003e;
    const AUDIT_I386: u32 = 0x4000_0003;
    const AUDIT_AARCH64: u32 = 0xc000_00b7;
    const AUDIT_ARM: u32 = 0x4000_0028;
    const AUDIT_RISCV64: u32 = 0xc000_00f3;

    /// An architecture's numbers of ioctl, of the calls whose mode is argument 1 and argument 2, of setxattr and of add_key. On all
    /// of them lsetxattr, fsetxattr, getxattr, lgetxattr, fgetxattr and listxattr follow the one, request_key and keyctl the other.
    struct Numbers {
        arch: u32,
        ioctl: &'static [u32],
        chmod: &'static [u32],
        fchmodat: &'static [u32],
        setxattr: u32,
        add_key: u32,
    }

    impl Numbers {
        fn xattr(&self) -> Range<u32> {
            self.setxattr..self.listxattr()
        }

        fn keys(&self) -> Range<u32> {
            self.add_key..self.add_key + 3
        }

        fn listxattr(&self) -> u32 {
            self.setxattr + 6
        }
    }

    const ON_X86_64: Numbers = Numbers {
        arch: AUDIT_X86_64,
        ioctl: &[16],
        chmod: &[90, 91],
        fchmodat: &[268, 452],
        setxattr: 188,
        add_key: 248,
    };
    const ON_X32: Numbers = Numbers {
        ioctl: &[0x4000_0202, 0x4000_0010],
        chmod: &[0x4000_005a, 0x4000_005b],
        fchmodat: &[0x4000_010c, 0x4000_01c4],
        setxattr: 0x4000_00bc,
        add_key: 0x4000_00f8,
        ..ON_X86_64
    };
    const ON_I386: Numbers = Numbers {
        arch: AUDIT_I386,
        ioctl: &[54],
        chmod: &[15, 94],
        fchmodat: &[306, 452],
        setxattr: 226,
        add_key: 286,
    };
    const ON_AARCH64: Numbers =
        Numbers { arch: AUDIT_AARCH64, ioctl: &[29], chmod: &[52], fchmodat: &[53, 452], setxattr: 5, add_key: 217 };
    const ON_ARM: Numbers = Numbers { arch: AUDIT_ARM, fchmodat: &[333, 452], add_key: 309, ..ON_I386 };
    const ALL: [Numbers; 5] = [ON_X86_64, ON_X32, ON_I386, ON_AARCH64, ON_ARM];

    /// The outcome of a call in the filter of the machines that run its architecture.
    fn outcome(arch: u32, number: u32, args: [u64; 6]) -> Outcome {
        let filter = match arch {
            AUDIT_AARCH64 | AUDIT_ARM => SystemCallFilter::of(&[AARCH64, ARM], Scope::NixToo),
            _ => SystemCallFilter::of(&[X86_64, I386], Scope::NixToo),
        };
        run(filter.instructions(), &seccomp_data { nr: number.cast_signed(), arch, instruction_pointer: 0, args })
    }

    fn answer(arch: u32, number: u32, args: [u64; 6]) -> u32 {
        outcome(arch, number, args).answer
    }

    /// Every argument but this one, and the high half of this one, is full of bits.
    fn among_noise(argument: usize, value: u32) -> [u64; 6] {
        let mut args = [u64::MAX; 6];
        args[argument] = 0xffff_ffff_0000_0000 | u64::from(value);
        args
    }

    fn alone(argument: usize, value: u32) -> [u64; 6] {
        let mut args = [0; 6];
        args[argument] = value.into();
        args
    }

    #[test]
    fn no_set_id_bit_passes_and_every_other_mode_does() {
        for numbers in ALL {
            let calls = numbers.chmod.iter().map(|number| (1, *number));
            let calls = calls.chain(numbers.fchmodat.iter().map(|number| (2, *number)));
            for (argument, number) in calls {
                for mode in [0o4000, 0o2000, 0o6000, 0o4755, 0o2755, 0o6777, 0o7777, 0x1_0800, u32::MAX] {
                    assert_eq!(answer(numbers.arch, number, alone(argument, mode)), EPERM, "{number} {mode:o}");
                    assert_eq!(answer(numbers.arch, number, among_noise(argument, mode)), EPERM, "{number} {mode:o}");
                }
                for mode in [0, 0o644, 0o777, 0o1777, 0x1_f000] {
                    assert_eq!(answer(numbers.arch, number, alone(argument, mode)), ALLOWED, "{number} {mode:o}");
                    assert_eq!(answer(numbers.arch, number, among_noise(argument, mode)), ALLOWED, "{number} {mode:o}");
                }
            }
        }
    }

    #[test]
    fn extended_attributes_are_neither_set_nor_read() {
        for numbers in ALL {
            for number in numbers.xattr() {
                assert_eq!(answer(numbers.arch, number, [0; 6]), ENOTSUP);
                assert_eq!(answer(numbers.arch, number, [u64::MAX; 6]), ENOTSUP);
            }
            assert_eq!(answer(numbers.arch, numbers.listxattr(), [u64::MAX; 6]), ALLOWED);
            // setxattrat, getxattrat
            assert_eq!(answer(numbers.arch, 463, [u64::MAX; 6]), ALLOWED);
            assert_eq!(answer(numbers.arch, 464, [u64::MAX; 6]), ALLOWED);
        }
    }

    #[test]
    fn no_key_is_made_found_or_read() {
        for number in ALL.iter().flat_map(|numbers| numbers.keys().map(|number| (numbers.arch, number))) {
            for args in [[0; 6], [u64::MAX; 6]] {
                assert_eq!(answer(number.0, number.1, args), ENOSYS);
            }
        }
    }

    #[test]
    fn nobody_types_into_a_terminal_and_every_other_request_passes() {
        for numbers in ALL {
            for &number in numbers.ioctl {
                for request in [0x5412, 0x541c] {
                    assert_eq!(answer(numbers.arch, number, alone(1, request)), EPERM, "{number} {request:x}");
                    assert_eq!(answer(numbers.arch, number, among_noise(1, request)), EPERM, "{number} {request:x}");
                }
                for request in [0, 0x5401, 0x5411, 0x5413, 0x541b, 0x541d, 0x15412, 0x8000_5412, u32::MAX] {
                    assert_eq!(answer(numbers.arch, number, alone(1, request)), ALLOWED, "{number} {request:x}");
                    assert_eq!(answer(numbers.arch, number, among_noise(1, request)), ALLOWED, "{number} {request:x}");
                }
            }
        }
    }

    #[test]
    fn every_other_call_is_allowed_by_its_number_alone() {
        let of = |arch| ALL.iter().filter(move |numbers| numbers.arch == arch);
        let allowed = Outcome { answer: ALLOWED, looked_at_arguments: false };
        for arch in [AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64, AUDIT_ARM] {
            let mut decided: Vec<u32> = of(arch)
                .flat_map(|numbers| {
                    [numbers.ioctl, numbers.chmod, numbers.fchmodat]
                        .concat()
                        .into_iter()
                        .chain(numbers.xattr())
                        .chain(numbers.keys())
                })
                .collect();
            if arch == AUDIT_X86_64 {
                // Without its bit x32's ioctl is no call at all.
                decided.push(514);
            }
            let x32 = if arch == AUDIT_X86_64 { 0x4000_0000..0x4000_0400 } else { 0..0 };
            let others = [0x4000_0000, 0x7fff_ffff, 0x8000_0010, 0xf_0002, u32::MAX - 1, u32::MAX];
            let mut count = 0;
            for number in (0..1024).chain(x32).chain(others).filter(|number| !decided.contains(number)) {
                assert_eq!(outcome(arch, number, [u64::MAX; 6]), allowed, "{number:#x} of {arch:#x}");
                count += 1;
            }
            assert!(count > 1000);
        }
    }

    #[test]
    fn a_call_of_an_architecture_that_the_kernel_cannot_have_kills() {
        assert_eq!(answer(AUDIT_RISCV64, 0, [0; 6]), KILLED);
        assert_eq!(answer(0, 0, [0; 6]), KILLED);
    }

    #[test]
    fn the_numbers_are_those_of_the_kernels_headers() {
        let native = if cfg!(target_arch = "x86_64") { AUDIT_X86_64 } else { AUDIT_AARCH64 };
        assert_eq!(answer(native, general::__NR_fchmod, alone(1, 0o4000)), EPERM);
        for number in [general::__NR_fchmodat, general::__NR_fchmodat2] {
            assert_eq!(answer(native, number, alone(2, 0o4000)), EPERM);
        }
        for number in [
            general::__NR_setxattr,
            general::__NR_lsetxattr,
            general::__NR_fsetxattr,
            general::__NR_getxattr,
            general::__NR_lgetxattr,
            general::__NR_fgetxattr,
        ] {
            assert_eq!(answer(native, number, [0; 6]), ENOTSUP);
        }
        assert_eq!(answer(native, general::__NR_ioctl, alone(1, TIOCSTI)), EPERM);
        for number in [general::__NR_add_key, general::__NR_request_key, general::__NR_keyctl] {
            assert_eq!(answer(native, number, [0; 6]), ENOSYS);
        }
    }

    #[test]
    fn without_nixs_filter_only_what_is_the_callers_is_kept() {
        let filter = SystemCallFilter::of(&[X86_64, I386], Scope::OursOnly);
        let verdict = |number, args| {
            let data = seccomp_data { nr: number, arch: AUDIT_X86_64, instruction_pointer: 0, args };
            run(filter.instructions(), &data).answer
        };
        assert_eq!(verdict(90, [0, 0o4755, 0, 0, 0, 0]), ALLOWED);
        assert_eq!(verdict(188, [0; 6]), ALLOWED);
        assert_eq!(verdict(16, [0, TIOCSTI.into(), 0, 0, 0, 0]), EPERM);
        assert_eq!(verdict(250, [0; 6]), ENOSYS);
    }

    #[test]
    fn the_kernel_takes_the_program_and_obeys_it() {
        let file = tempfile::tempfile().unwrap();
        // A filter binds the thread that installs it, and no other.
        let bound = std::thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            crate::sys::filter_system_calls(SystemCallFilter::of_build().instructions()).unwrap();
            for bit in [0o4000, 0o2000] {
                assert_eq!(fchmod(&file, Mode::from_raw_mode(0o700 | bit)), Err(Errno::PERM));
            }
            fchmod(&file, Mode::from_raw_mode(0o1755)).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            assert_eq!(fsetxattr(&file, "user.name", b"value", flags), Err(Errno::NOTSUP));
            assert_eq!(fgetxattr(&file, "user.name", &mut [0; 8]), Err(Errno::NOTSUP));
            flistxattr(&file, &mut [0; 64]).unwrap();
        });
        bound.join().unwrap();
    }
}
