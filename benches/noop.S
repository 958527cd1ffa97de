// The command that all candidates execute: it exits with status 0, at once, without a C library or a loader.

    .globl _start
    .text
_start:
#if defined(__x86_64__)
    mov $60, %eax       // exit
    xor %edi, %edi
    syscall
#elif defined(__aarch64__)
    mov x8, #93         // exit
    mov x0, #0
    svc #0
#else
#error "a system call to exit is needed here for this architecture"
#endif

    .section .note.GNU-stack, "", %progbits
