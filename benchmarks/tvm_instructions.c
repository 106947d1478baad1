/* A plugin for qemu-user that counts executed instructions of the guest. It writes the sum to a file, a line at each call of
   getppid (which nobody makes by chance) and one at exit:  qemu-aarch64 -plugin ./libcount.so,to=FILE PROGRAM …
   Debian ships no header for plugins, so what is used of the interface is declared here (it is that of qemu's
   include/qemu/qemu-plugin.h). API: the version of the interface, 1 up to qemu 8, 2 from qemu 9 on.
   The sum is right for one thread; several may lose counts to each other. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t Id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_syscall_cb(Id, void (*)(Id, unsigned, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(Id, void (*)(Id, void *), void *);

int qemu_plugin_version = API;
static uint64_t executed;
static FILE *out;
enum { GETPPID = 173 }; /* of aarch64 */

static void run(unsigned cpu, void *instructions) { executed += (uintptr_t)instructions; }

static void translated(Id id, struct qemu_plugin_tb *block) {
  qemu_plugin_register_vcpu_tb_exec_cb(block, run, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(Id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                   uint64_t g, uint64_t h) {
  if (number == GETPPID) fprintf(out, "%" PRIu64 "\n", executed);
}

static void leave(Id id, void *nothing) {
  fprintf(out, "%" PRIu64 "\n", executed);
  fclose(out);
}

int qemu_plugin_install(Id id, const void *machine, int count, char **arguments) {
  if (count != 1 || strncmp(arguments[0], "to=", 3) || !(out = fopen(arguments[0] + 3, "w"))) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  qemu_plugin_register_atexit_cb(id, leave, NULL);
  return 0;
}
