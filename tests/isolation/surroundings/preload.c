/* Runs in whatever is started with it in LD_PRELOAD. */
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void ran(void) {
    int file = open("@ran@/ld-preload", O_CREAT | O_WRONLY, 0644);
    if (file >= 0) close(file);
}
