// SPDX-License-Identifier: GPL-2.0
/*
 * A Linux guest: its devices, its vCPUs, and the summary at the end.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "../vmm/die.h"
#include "../vmm/host.h"
#include "../vmm/kvm-stats.h"
#include "acpi.h"
#include "linux.h"
#include "peer.h"
#include "serial.h"
#include "stats.h"

/* On Intel CPUs, KVM needs some pages for itself, outside of the guest's memory. */
#define KVM_TSS_ADDR		0xfffbd000
#define KVM_IDENTITY_MAP_ADDR	0xfffbc000ULL

static struct vcpu vcpus[LINUX_MAX_CPUS];
static int vm_stats, vcpu_stats[LINUX_MAX_CPUS];
static sem_t ended;
static bool false_claim;

static bool linux_port(struct vcpu *vcpu, bool write, __u16 port, void *data,
		       unsigned int size)
{
	__u32 value = 0;

	if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size == 1) {
		serial_access(write, port, data);
		return false;
	}
	if (port >= ACPI_PM1_PORT && port < ACPI_PM1_PORT + ACPI_PM1_PORTS)
		return acpi_access(write, port, data, size);
	if (!write) {
		/* Unused ports read as ones; the keyboard controller is never busy. */
		memset(data, port == ACPI_RESET_PORT ? 0 : 0xff, size);
		return false;
	}
	memcpy(&value, data, size);
	if (port == GMEM_GUEST_PORT && size == sizeof(value))
		peer_request(vcpu->vm, value);
	return port == ACPI_RESET_PORT && value == ACPI_RESET;
}

static void linux_mmio(struct vcpu *vcpu, bool write, __u64 gpa, void *data,
		       unsigned int size)
{
	(void)vcpu;
	(void)gpa;
	if (!write)
		memset(data, 0xff, size);
}

static void linux_before(struct vm *vm, __u64 offset, __u64 size, bool private)
{
	(void)vm;
	(void)offset;
	(void)size;
	stats_begin(private);
}

static void linux_after(struct vm *vm, __u64 offset, __u64 size, int err)
{
	(void)vm;
	(void)offset;
	stats_end(size, err);
}

static const struct vm_ops linux_ops = {
	.port = linux_port,
	.mmio = linux_mmio,
	.before = linux_before,
	.after = linux_after,
};

/* Use KVM's interrupt controllers and timer. */
static void create_chips(struct vm *vm)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	__u64 identity_map = KVM_IDENTITY_MAP_ADDR;

	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
		die("KVM_SET_IDENTITY_MAP_ADDR: %s", strerror(errno));
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR))
		die("KVM_SET_TSS_ADDR: %s", strerror(errno));
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		die("KVM_CREATE_IRQCHIP: %s", strerror(errno));
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit))
		die("KVM_CREATE_PIT2: %s", strerror(errno));
}

static void *run_vcpu(void *vcpu)
{
	vcpu_run(vcpu);
	sem_post(&ended);
	return NULL;
}

static void claim(bool ok, const char *text)
{
	printf("   %s  %s\n", ok ? "ok" : "NOT TRUE:", text);
	false_claim |= !ok;
}

static void show_direction(const char *name, const struct direction *d)
{
	printf("   %-12s%12lu%12lu%10lu%12.1f us%12.1f us\n", name, d->calls, d->pages, d->failed,
	       d->calls ? d->ns / 1e3 / d->calls : 0.0, d->worst_ns / 1e3);
}

/* Return the size of the file's private memory in bytes, according to /proc. */
static __u64 private_bytes(const struct vm *vm)
{
	unsigned long long value = ~0ULL;
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", vm->gmem_fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "gmem-private: %llu", &value);
	if (f)
		fclose(f);
	return value;
}

static void show_peer(const struct vm *vm)
{
	const struct direction *private = stats_of(true), *shared = stats_of(false);
	const struct gmem_guest_request *report = &peer.report;

	printf("   data checked: %llu pages by the guest, %lu by the VMM;\n"
	       "      %lu blocks of the disk were written or read\n",
	       report->checked, peer.checked, peer.blocks);
	printf("   private at the same time: up to %llu pages, %llu MiB of %llu\n", report->peak,
	       report->peak * PAGE_BYTES >> 20, vm->size >> 20);
	claim(!report->wrong && !peer.wrong,
	      "nothing is lost: every page had the expected data");
	claim(report->to_private == private->calls && report->to_shared == shared->calls &&
	      report->refused == private->failed + shared->failed,
	      "guest and VMM counted the same conversions");
	claim(report->pages_to_private == private->pages &&
	      report->pages_to_shared == shared->pages &&
	      kvm_stats_read(vm_stats, "gmem_pages_to_private") == private->pages &&
	      kvm_stats_read(vm_stats, "gmem_pages_to_shared") == shared->pages,
	      "guest, VMM and KVM counted the same pages");
	claim(!private_bytes(vm), "all memory is shared again, according to the kernel (fdinfo)");
	claim(!peer.refused, "all requests of the guest's driver were valid");
}

static void show_end(const struct vm *vm, const struct boot *boot, __u64 ns)
{
	unsigned long overtaken = 0;
	struct rusage usage;
	__u64 faults = 0;
	int i;

	for (i = 0; i < boot->nr_cpus; i++) {
		overtaken += vcpus[i].overtaken;
		faults += kvm_stats_read(vcpu_stats[i], "pf_taken");
	}
	getrusage(RUSAGE_SELF, &usage);
	fflush(stdout);
	printf("\ngmem-vmm: the guest ended after %.1f s\n", ns / 1e9);
	printf("   %-12s%12s%12s%10s%15s%15s\n", "conversions", "requests", "pages", "refused",
	       "average", "longest");
	show_direction("to private", stats_of(true));
	show_direction("to shared", stats_of(false));
	printf("   page faults: %llu of the guest, %lu of the VMM; %lu accesses were overtaken by a\n"
	       "      conversion and repeated; %llu attempts failed with EAGAIN\n",
	       faults, usage.ru_minflt, overtaken, kvm_stats_read(vm_stats, "gmem_busy"));
	if (peer.ended)
		show_peer(vm);
	else if (peer.started)
		claim(false, "the guest's driver has finished");
	else
		printf("   no data checked: the guest did not load the driver of tools/gmem-guest\n");
}

int linux_run(const struct boot *boot, unsigned int mib, enum on_busy on_busy)
{
	struct vm vm = {
		.ops = &linux_ops,
		.size = (__u64)mib << 20,
		.on_busy = on_busy,
	};
	pthread_t thread;
	__u64 start;
	int i;

	touch_init();
	vm_create(&vm);
	boot_load(&vm, boot);
	create_chips(&vm);
	vm_stats = kvm_stats_open(vm.fd);
	for (i = 0; i < boot->nr_cpus; i++) {
		vcpu_create(&vcpus[i], &vm, i);
		vcpu_stats[i] = kvm_stats_open(vcpus[i].fd);
	}
	boot_start(&vcpus[0]);
	serial_init(&vm);
	sem_init(&ended, 0, 0);

	start = gmem_now();
	for (i = 0; i < boot->nr_cpus; i++) {
		if (pthread_create(&thread, NULL, run_vcpu, &vcpus[i]))
			die("pthread_create failed");
		pthread_detach(thread);
	}
	/* Wait for a vCPU to end the guest; the other threads end with the program. */
	while (sem_wait(&ended))
		;
	show_end(&vm, boot, gmem_now() - start);
	return false_claim ? EXIT_BROKEN : 0;
}
