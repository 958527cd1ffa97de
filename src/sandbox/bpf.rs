//! Writes a filter of system calls: a program of classic BPF over the kernel's [`seccomp_data`]. See [`seccomp(2)`].
//!
//! [`seccomp(2)`]: https://man7.org/linux/man-pages/man2/seccomp.2.html

use std::mem::offset_of;

use linux_raw_sys::if_tun::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
};
use linux_raw_sys::ptrace::seccomp_data;

use crate::sys::BpfInstruction;

/// A place in a program: how many instructions there are from it to the end.
pub(super) type Place = usize;

/// A program that is written from its end to its start: each method puts something in front and returns its place. Jumps only lead
/// forward, so what they lead to is there already.
#[derive(Default)]
pub(super) struct Program(Vec<BpfInstruction>);

impl Program {
    /// Ends with this answer, a `SECCOMP_RET_*`.
    pub(super) fn answer(&mut self, answer: u32) -> Place {
        self.put(BPF_RET | BPF_K, answer)
    }

    /// Loads the number of the system call.
    pub(super) fn load_number(&mut self) -> Place {
        self.load(offset_of!(seccomp_data, nr))
    }

    /// Loads the `AUDIT_ARCH_*` number of the architecture.
    pub(super) fn load_architecture(&mut self) -> Place {
        self.load(offset_of!(seccomp_data, arch))
    }

    /// Loads the low half of an argument.
    pub(super) fn load_argument(&mut self, argument: usize) -> Place {
        self.load(offset_of!(seccomp_data, args) + argument * size_of::<u64>())
    }

    /// Clears these bits of what is loaded.
    pub(super) fn clear(&mut self, bits: u32) -> Place {
        self.put(BPF_ALU | BPF_AND | BPF_K, !bits)
    }

    /// Where to go if `value` is loaded, and if not.
    pub(super) fn if_equal(&mut self, value: u32, then: Place, otherwise: Place) -> Place {
        self.jump(BPF_JEQ, value, then, otherwise)
    }

    /// Where to go if any of these bits is loaded, and if not.
    pub(super) fn if_any_bit(&mut self, bits: u32, then: Place, otherwise: Place) -> Place {
        self.jump(BPF_JSET, bits, then, otherwise)
    }

    /// Looks for what is loaded in `ranges`: each begins with its number and ends where the next one begins, which may be at once.
    /// The first begins with 0, and there are two at least.
    pub(super) fn search(&mut self, ranges: &[(u32, Place)]) -> Place {
        if let [(_, place)] = ranges {
            return *place;
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let in_upper = self.search(upper);
        let in_lower = self.search(lower);
        self.jump(BPF_JGE, upper[0].0, in_upper, in_lower)
    }

    /// The instructions from the first to the last.
    pub(super) fn finish(mut self) -> Vec<BpfInstruction> {
        self.0.reverse();
        self.0
    }

    fn load(&mut self, offset: usize) -> Place {
        self.put(BPF_LD | BPF_W | BPF_ABS, offset as u32)
    }

    fn put(&mut self, code: u32, operand: u32) -> Place {
        self.put_with_skips(code, operand, 0, 0)
    }

    fn jump(&mut self, comparison: u32, operand: u32, then: Place, otherwise: Place) -> Place {
        let next = self.0.len();
        self.put_with_skips(BPF_JMP | comparison | BPF_K, operand, next - then, next - otherwise)
    }

    fn put_with_skips(&mut self, code: u32, operand: u32, skip_if_true: usize, skip_if_false: usize) -> Place {
        let (skip_if_true, skip_if_false) = (skip_if_true as u8, skip_if_false as u8);
        self.0.push(BpfInstruction { code: code as u16, skip_if_true, skip_if_false, operand });
        self.0.len()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// How a program ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::sandbox) struct Outcome {
        pub answer: u32,
        /// Whether it depends on an argument.
        pub looked_at_arguments: bool,
    }

    /// Runs a program as the kernel does.
    pub(in crate::sandbox) fn run(program: &[BpfInstruction], data: &seccomp_data) -> Outcome {
        const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
        const CLEAR: u32 = BPF_ALU | BPF_AND | BPF_K;
        const IF_EQUAL: u32 = BPF_JMP | BPF_JEQ | BPF_K;
        const IF_AT_LEAST: u32 = BPF_JMP | BPF_JGE | BPF_K;
        const IF_ANY_BIT: u32 = BPF_JMP | BPF_JSET | BPF_K;
        const ANSWER: u32 = BPF_RET | BPF_K;
        let first_argument = offset_of!(seccomp_data, args) as u32;
        let (mut accumulator, mut position, mut looked_at_arguments) = (0, 0, false);
        loop {
            let BpfInstruction { code, skip_if_true, skip_if_false, operand } = program[position];
            position += 1;
            let holds = match u32::from(code) {
                ANSWER => return Outcome { answer: operand, looked_at_arguments },
                LOAD => {
                    looked_at_arguments |= operand >= first_argument;
                    accumulator = word(data, operand);
                    continue;
                }
                CLEAR => {
                    accumulator &= operand;
                    continue;
                }
                IF_EQUAL => accumulator == operand,
                IF_AT_LEAST => accumulator >= operand,
                IF_ANY_BIT => accumulator & operand != 0,
                other => panic!("an instruction {other:#x} that this machine does not know"),
            };
            position += usize::from(if holds { skip_if_true } else { skip_if_false });
        }
    }

    /// The two halves of each argument follow each other, the low one first.
    fn word(data: &seccomp_data, offset: u32) -> u32 {
        match offset {
            0 => data.nr.cast_unsigned(),
            4 => data.arch,
            16..64 => {
                let half = (offset - 16) / 4;
                (data.args[half as usize / 2] >> (half % 2 * 32)) as u32
            }
            other => panic!("the filter looks at no field at {other}"),
        }
    }

    fn number(nr: i32) -> seccomp_data {
        seccomp_data { nr, arch: 0, instruction_pointer: 0, args: [0; 6] }
    }

    #[test]
    fn a_search_finds_the_range_of_every_number() {
        for count in 2..40 {
            let mut program = Program::default();
            let ranges: Vec<_> = (0..count).map(|index| (index * 3, program.answer(index))).collect();
            program.search(&ranges);
            program.load_number();
            let program = program.finish();
            for nr in 0..count * 3 {
                assert_eq!(run(&program, &number(nr.cast_signed())).answer, nr / 3, "{nr} of {count} ranges");
            }
            assert_eq!(run(&program, &number(-1)).answer, count - 1);
        }
    }
}
