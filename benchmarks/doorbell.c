/* Lets a process leave its RDMA devices' doorbells out. Preloaded (LD_PRELOAD) by
 * benchmarks/rdma_inside.py.
 *
 * On soft-RoCE a doorbell is a write(2) to /dev/infiniband/uverbsN in which the kernel does the whole
 * sending, tens of microseconds for every caller. With doorbell_skip set these writes succeed at
 * once without reaching the kernel: what a call then costs is what runs in user space, the caller's
 * code, the library or pyverbs, the provider. Nothing is sent, so a queue must hold them all. */
#define _GNU_SOURCE
#include <rdma/ib_user_verbs.h>
#include <sys/syscall.h>
#include <unistd.h>

int doorbell_skip;
unsigned long doorbell_skipped_count;

/* The command is looked at, not the descriptor: nothing else that is written meanwhile is a post's
 * header with exactly its length. */
static int is_doorbell(const void* data, size_t bytes) {
  const struct ib_uverbs_cmd_hdr* header = data;
  return bytes == sizeof *header + sizeof(struct ib_uverbs_post_send) &&
         header->command == IB_USER_VERBS_CMD_POST_SEND && header->in_words * 4U == bytes;
}

ssize_t write(int fd, const void* data, size_t bytes) {
  if (doorbell_skip && is_doorbell(data, bytes)) {
    ++doorbell_skipped_count;
    return (ssize_t)bytes;
  }
  return syscall(SYS_write, fd, data, bytes);
}
