// Prints the address by which others reach this machine.
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

int main(void) {
    // Nothing is sent: a datagram socket that is connected has chosen the interface it would send from.
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};
    socklen_t size = sizeof address;
    char text[INET_ADDRSTRLEN];
    int descriptor = socket(AF_INET, SOCK_DGRAM, 0);

    inet_pton(AF_INET, "198.51.100.1", &address.sin_addr);
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(descriptor, (struct sockaddr *)&address, &size) != 0) {
        perror("whereami");
        return 1;
    }
    puts(inet_ntop(AF_INET, &address.sin_addr, text, sizeof text));
    return 0;
}
