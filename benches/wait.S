// A command that tells when it begins, and ends when it is told to: it writes a byte to standard output, waits for one from standard
// input, or for its end, and exits with status 0.

    .globl _start
    .text
_start:
#if defined(__x86_64__)
    mov $1, %eax        // write
    mov $1, %edi
    lea byte(%rip), %rsi
    mov $1, %edx
    syscall
    xor %eax, %eax      // read
    xor %edi, %edi
    lea -64(%rsp), %rsi
    mov $1, %edx
    syscall
    mov $60, %eax       // exit
    xor %edi, %edi
    syscall
#elif defined(__aarch64__)
    mov x8, #64         // write
    mov x0, #1
    adr x1, byte
    mov x2, #1
    svc #0
    mov x8, #63         // read
    mov x0, #0
    sub x1, sp, #64
    mov x2, #1
    svc #0
    mov x8, #93         // exit
    mov x0, #0
    svc #0
#else
#error "system calls are needed here for this architecture"
#endif
byte:
    .ascii "x"

    .section .note.GNU-stack, "", %progbits
