// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs and interrupts, as Intel's MultiProcessor Specification 1.4 has them: a
 * tenth of the code that ACPI takes.
 */
#include <linux/types.h>
#include <string.h>

#include "mptable.h"

#define LAPIC_ADDR	0xfee00000
#define LAPIC_VERSION	0x14
#define IOAPIC_ADDR	0xfec00000
#define IOAPIC_VERSION	0x11
#define ISA_IRQS	16
#define ALL_CPUS	0xff

enum { MP_CPU, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL };
enum { IRQ_INT, IRQ_NMI, IRQ_SMI, IRQ_EXTINT };

struct mp_pointer {
	char signature[4];
	__u32 table;
	__u8 length, revision, checksum, features[5];
};

struct mp_table {
	char signature[4];
	__u16 length;
	__u8 revision, checksum;
	char oem[8], product[12];
	__u32 oem_table;
	__u16 oem_size, nr_entries;
	__u32 lapic, reserved;
};

struct mp_cpu {
	__u8 type, id, version, flags;
	__u32 signature, features, reserved[2];
};

struct mp_bus {
	__u8 type, id;
	char name[6];
};

struct mp_ioapic {
	__u8 type, id, version, flags;
	__u32 addr;
};

/* Of the IOAPIC, or local */
struct mp_interrupt {
	__u8 type, kind;
	__u16 flags;
	__u8 bus, irq, dest, pin;
};

static __u8 checksum(const void *mem, unsigned int size)
{
	const __u8 *byte = mem;
	__u8 sum = 0;

	while (size--)
		sum += *byte++;
	return -sum;
}

static struct mp_table *table;

static void add(const void *entry, unsigned int size)
{
	memcpy((char *)table + table->length, entry, size);
	table->length += size;
	table->nr_entries++;
}

void mptable_make(void *mem, int nr_cpus)
{
	struct mp_pointer *pointer = mem;
	int i;

	table = (void *)(pointer + 1);
	*table = (struct mp_table) {
		.signature = "PCMP",
		.length = sizeof(*table),
		.revision = 4,
		.oem = "GMEM-VMM",
		.product = "EXAMPLE     ",
		.lapic = LAPIC_ADDR,
	};
	for (i = 0; i < nr_cpus; i++)
		/* Enabled, and the first one is started by the VMM. */
		add(&(struct mp_cpu) { MP_CPU, i, LAPIC_VERSION, i ? 1 : 3, 0, 0, { } },
		    sizeof(struct mp_cpu));
	add(&(struct mp_bus) { MP_BUS, 0, "ISA   " }, sizeof(struct mp_bus));
	add(&(struct mp_ioapic) { MP_IOAPIC, nr_cpus, IOAPIC_VERSION, 1, IOAPIC_ADDR },
	    sizeof(struct mp_ioapic));
	/* KVM's own routing: each to the pin of its number. */
	for (i = 0; i < ISA_IRQS; i++)
		add(&(struct mp_interrupt) { MP_INTERRUPT, IRQ_INT, 0, 0, i, nr_cpus, i },
		    sizeof(struct mp_interrupt));
	add(&(struct mp_interrupt) { MP_LOCAL, IRQ_EXTINT, 0, 0, 0, 0, 0 },
	    sizeof(struct mp_interrupt));
	add(&(struct mp_interrupt) { MP_LOCAL, IRQ_NMI, 0, 0, 0, ALL_CPUS, 1 },
	    sizeof(struct mp_interrupt));
	table->checksum = checksum(table, table->length);

	*pointer = (struct mp_pointer) {
		.signature = "_MP_",
		.table = MPTABLE_GPA + sizeof(*pointer),
		.length = 1,	/* times 16 bytes */
		.revision = 4,
	};
	pointer->checksum = checksum(pointer, sizeof(*pointer));
}
