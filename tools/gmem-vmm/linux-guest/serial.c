// SPDX-License-Identifier: GPL-2.0
/*
 * A serial port that emulates as much of a 16550A as Linux needs: output goes
 * to standard output, input comes from standard input.
 */
#include <errno.h>
#include <linux/serial_reg.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "../vmm/die.h"
#include "serial.h"

#define IRQ	4

static struct {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_cond_t empty;
	__u8 ier, lcr, mcr, scr, fcr, dll, dlm;
	__u8 in;
	bool in_full;
	bool thr_empty;		/* to be reported to the guest */
	bool level;
} serial = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.empty = PTHREAD_COND_INITIALIZER,
	.dll = 1,
};

static struct termios terminal;

static __u8 pending(void)
{
	if (serial.in_full && serial.ier & UART_IER_RDI)
		return UART_IIR_RDI;
	if (serial.thr_empty && serial.ier & UART_IER_THRI)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

static void update_irq(void)
{
	struct kvm_irq_level irq = { .irq = IRQ, .level = pending() != UART_IIR_NO_INT };

	if (irq.level == serial.level)
		return;
	serial.level = irq.level;
	if (ioctl(serial.vm->fd, KVM_IRQ_LINE, &irq))
		die("KVM_IRQ_LINE: %s", strerror(errno));
}

static void put(__u8 value)
{
	while (write(STDOUT_FILENO, &value, 1) < 0 && (errno == EINTR || errno == EAGAIN))
		;
	serial.thr_empty = true;
}

/* In loopback mode, outputs are connected to inputs, which drivers use for probing. */
static __u8 modem_status(void)
{
	__u8 out = serial.mcr;

	if (!(out & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	return (out & UART_MCR_RTS ? UART_MSR_CTS : 0) | (out & UART_MCR_DTR ? UART_MSR_DSR : 0) |
	       (out & UART_MCR_OUT1 ? UART_MSR_RI : 0) | (out & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}

static void write_register(unsigned int reg, __u8 value)
{
	switch (reg) {
	case UART_TX:
		if (serial.lcr & UART_LCR_DLAB)
			serial.dll = value;
		else if (!(serial.mcr & UART_MCR_LOOP))
			put(value);
		break;
	case UART_IER:
		if (serial.lcr & UART_LCR_DLAB) {
			serial.dlm = value;
			break;
		}
		/* Enabling the interrupt reports an empty register, even a second time. */
		if (value & ~serial.ier & UART_IER_THRI)
			serial.thr_empty = true;
		serial.ier = value & 0x0f;
		break;
	case UART_FCR:
		serial.fcr = value;
		break;
	case UART_LCR:
		serial.lcr = value;
		break;
	case UART_MCR:
		serial.mcr = value & 0x1f;
		break;
	case UART_SCR:
		serial.scr = value;
		break;
	}
}

static __u8 read_register(unsigned int reg)
{
	__u8 value = 0;

	switch (reg) {
	case UART_RX:
		if (serial.lcr & UART_LCR_DLAB)
			return serial.dll;
		value = serial.in;
		serial.in_full = false;
		pthread_cond_signal(&serial.empty);
		return value;
	case UART_IER:
		return serial.lcr & UART_LCR_DLAB ? serial.dlm : serial.ier;
	case UART_IIR:
		value = pending();
		if (value == UART_IIR_THRI)
			serial.thr_empty = false;
		return value | (serial.fcr & UART_FCR_ENABLE_FIFO ? 0xc0 : 0);
	case UART_LCR:
		return serial.lcr;
	case UART_MCR:
		return serial.mcr;
	case UART_LSR:
		return UART_LSR_TEMT | UART_LSR_THRE | (serial.in_full ? UART_LSR_DR : 0);
	case UART_MSR:
		return modem_status();
	default:
		return serial.scr;
	}
}

void serial_access(bool write, __u16 port, __u8 *value)
{
	pthread_mutex_lock(&serial.lock);
	if (write)
		write_register(port - SERIAL_PORT, *value);
	else
		*value = read_register(port - SERIAL_PORT);
	update_irq();
	pthread_mutex_unlock(&serial.lock);
}

static void *read_terminal(void *unused)
{
	__u8 value;

	(void)unused;
	while (read(STDIN_FILENO, &value, 1) == 1) {
		pthread_mutex_lock(&serial.lock);
		while (serial.in_full)
			pthread_cond_wait(&serial.empty, &serial.lock);
		serial.in = value;
		serial.in_full = true;
		update_irq();
		pthread_mutex_unlock(&serial.lock);
	}
	return NULL;
}

static void restore_terminal(void)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
}

static void restore_and_die(int sig)
{
	restore_terminal();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Pass each key to the guest, except for those that raise signals, such as ^C. */
static void take_terminal(void)
{
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal))
		return;
	atexit(restore_terminal);
	signal(SIGINT, restore_and_die);
	signal(SIGTERM, restore_and_die);
	raw = terminal;
	raw.c_lflag &= ~(ICANON | ECHO);
	raw.c_iflag &= ~ICRNL;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

void serial_init(struct vm *vm)
{
	pthread_t thread;

	serial.vm = vm;
	take_terminal();
	if (pthread_create(&thread, NULL, read_terminal, NULL))
		die("pthread_create failed");
	pthread_detach(thread);
}
