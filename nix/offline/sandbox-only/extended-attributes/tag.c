// tag FILE TEXT: gives the file a tag, which stays with it when it is renamed.
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    if (setxattr(argv[1], "user.tag", argv[2], strlen(argv[2]), 0) != 0) {
        perror(argv[1]);
        return 1;
    }
    return 0;
}
