// SPDX-License-Identifier: GPL-2.0
/*
 * The minimum of ACPI that is needed to start all CPUs, and to power off or
 * reset the machine: CPUs, interrupt controllers, and power management
 * registers.
 */
#include <string.h>

#include "acpi.h"

#define LAPIC_ADDR	0xfee00000
#define IOAPIC_ADDR	0xfec00000
#define SCI_IRQ		9

#define PM1_EVENT	ACPI_PM1_PORT
#define PM1_ENABLE	(ACPI_PM1_PORT + 2)
#define PM1_CONTROL	(ACPI_PM1_PORT + 4)
#define SCI_ENABLED	(1 << 0)
#define SLEEP_ENABLE	(1 << 13)

#define BOOT_NO_VGA	(1 << 2)
#define BOOT_NO_RTC	(1 << 5)
#define BOOT_DEVICES	(1 << 0)
#define FADT_WBINVD	(1 << 0)
#define FADT_NO_BUTTONS	(3 << 4)
#define FADT_HAS_RESET	(1 << 10)
#define NO_C2		101	/* latencies that mean: not supported */
#define NO_C3		1001

#define packed		__attribute__((packed))

struct packed header {
	char signature[4];
	__u32 length;
	__u8 revision, checksum;
	char oem[6], table[8];
	__u32 oem_revision;
	char creator[4];
	__u32 creator_revision;
};

struct packed address {
	__u8 space, bits, offset, access;
	__u64 address;
};

struct packed rsdp {
	char signature[8];
	__u8 checksum;
	char oem[6];
	__u8 revision;
	__u32 rsdt, length;
	__u64 xsdt;
	__u8 checksum_of_all, reserved[3];
};

struct packed facs {
	char signature[4];
	__u32 length, rest[14];
};

struct packed fadt {
	struct header header;
	__u32 facs, dsdt;
	__u8 reserved, profile;
	__u16 sci;
	__u32 smi_command;
	__u8 enable, disable, s4bios, pstate;
	__u32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
	__u8 pm1_event_length, pm1_control_length, pm2_length, timer_length;
	__u8 gpe0_length, gpe1_length, gpe1_base, cst;
	__u16 c2_latency, c3_latency, flush[2];
	__u8 duty[2], alarm[2], century;
	__u16 boot;
	__u8 reserved2;
	__u32 flags;
	struct address reset;
	__u8 reset_value, reserved3[3];
	__u64 x_facs, x_dsdt;
	struct address x_blocks[8];
};

struct packed lapic {
	__u8 type, length, cpu, id;
	__u32 enabled;
};

struct packed ioapic {
	__u8 type, length, id, reserved;
	__u32 addr, first_irq;
};

struct packed nmi {
	__u8 type, length, cpu;
	__u16 flags;
	__u8 lint;
};

struct packed madt {
	struct header header;
	__u32 lapic, flags;
	struct ioapic ioapic;
	struct nmi nmi;
	struct lapic cpus[];
};

/* Name(_S5, Package() { 5, 5, 0, 0 }) */
static const __u8 soft_off[] = { 0x08, '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0 };

struct packed dsdt {
	struct header header;
	__u8 aml[sizeof(soft_off)];
};

struct packed xsdt {
	struct header header;
	__u64 fadt, madt;
};

/* The guest searches for the RSDP, which leads to the other tables. */
struct packed tables {
	struct rsdp rsdp;
	__u8 pad[28];
	struct facs facs;	/* has to be aligned to 64 bytes */
	struct xsdt xsdt;
	struct fadt fadt;
	struct dsdt dsdt;
	struct madt madt;
};

#define GPA_OF(member)	(ACPI_GPA + (unsigned int)__builtin_offsetof(struct tables, member))

_Static_assert(sizeof(struct fadt) == 244 && GPA_OF(facs) % 64 == 0, "ACPI's layout");

static __u8 checksum(const void *mem, unsigned int size)
{
	const __u8 *byte = mem;
	__u8 sum = 0;

	while (size--)
		sum += *byte++;
	return -sum;
}

static void finish(struct header *header, const char *signature, __u32 length, __u8 revision)
{
	memcpy(header->signature, signature, sizeof(header->signature));
	memcpy(header->oem, "GMEM  ", sizeof(header->oem));
	memcpy(header->table, "GMEM-VMM", sizeof(header->table));
	memcpy(header->creator, "GMEM", sizeof(header->creator));
	header->length = length;
	header->revision = revision;
	header->oem_revision = 1;
	header->creator_revision = 1;
	header->checksum = checksum(header, length);
}

static void make_fadt(struct fadt *fadt)
{
	fadt->facs = GPA_OF(facs);
	fadt->dsdt = GPA_OF(dsdt);
	fadt->x_dsdt = GPA_OF(dsdt);
	fadt->sci = SCI_IRQ;
	fadt->pm1a_event = PM1_EVENT;
	fadt->pm1_event_length = 4;
	fadt->pm1a_control = PM1_CONTROL;
	fadt->pm1_control_length = 2;
	fadt->c2_latency = NO_C2;
	fadt->c3_latency = NO_C3;
	fadt->boot = BOOT_DEVICES | BOOT_NO_VGA | BOOT_NO_RTC;
	fadt->flags = FADT_WBINVD | FADT_NO_BUTTONS | FADT_HAS_RESET;
	fadt->reset = (struct address) { .space = 1, .bits = 8, .access = 1,
					 .address = ACPI_RESET_PORT };
	fadt->reset_value = ACPI_RESET;
	finish(&fadt->header, "FACP", sizeof(*fadt), 3);
}

/* Describe KVM's default routing: each interrupt goes to the pin of the same number. */
static void make_madt(struct madt *madt, int nr_cpus)
{
	int i;

	madt->lapic = LAPIC_ADDR;
	madt->flags = 1;	/* there are two 8259s, too */
	madt->ioapic = (struct ioapic) { 1, sizeof(madt->ioapic), nr_cpus, 0, IOAPIC_ADDR, 0 };
	madt->nmi = (struct nmi) { 4, sizeof(madt->nmi), 0xff, 0, 1 };
	for (i = 0; i < nr_cpus; i++)
		madt->cpus[i] = (struct lapic) { 0, sizeof(madt->cpus[i]), i, i, 1 };
	finish(&madt->header, "APIC", sizeof(*madt) + nr_cpus * sizeof(madt->cpus[0]), 3);
}

void acpi_make(void *mem, int nr_cpus)
{
	struct tables *t = mem;

	make_fadt(&t->fadt);
	make_madt(&t->madt, nr_cpus);
	memcpy(t->dsdt.aml, soft_off, sizeof(soft_off));
	finish(&t->dsdt.header, "DSDT", sizeof(t->dsdt), 2);
	memcpy(t->facs.signature, "FACS", sizeof(t->facs.signature));
	t->facs.length = sizeof(t->facs);
	t->xsdt.fadt = GPA_OF(fadt);
	t->xsdt.madt = GPA_OF(madt);
	finish(&t->xsdt.header, "XSDT", sizeof(t->xsdt), 1);

	memcpy(t->rsdp.signature, "RSD PTR ", sizeof(t->rsdp.signature));
	memcpy(t->rsdp.oem, "GMEM  ", sizeof(t->rsdp.oem));
	t->rsdp.revision = 2;
	t->rsdp.length = sizeof(t->rsdp);
	t->rsdp.xsdt = GPA_OF(xsdt);
	t->rsdp.checksum = checksum(&t->rsdp, 20);	/* the fields of version 1 */
	t->rsdp.checksum_of_all = checksum(&t->rsdp, sizeof(t->rsdp));
}

/* The events that the guest has enabled; none of them is ever raised. */
static __u16 enabled;

bool acpi_access(bool write, __u16 port, void *data, unsigned int size)
{
	__u32 value = 0;

	if (port == PM1_CONTROL)
		value = SCI_ENABLED;
	else if (port == PM1_ENABLE)
		value = enabled;
	if (!write) {
		memcpy(data, &value, size);
		return false;
	}
	memcpy(&value, data, size);
	if (port == PM1_ENABLE)
		enabled = value;
	/* Soft-off is the only sleep state. */
	return port == PM1_CONTROL && value & SLEEP_ENABLE;
}
