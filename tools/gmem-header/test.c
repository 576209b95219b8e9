// SPDX-License-Identifier: GPL-2.0-only
/*
 * Call all functions of include/gmem.h, the header for VMM authors, and check
 * their results.
 *
 * usage: gmem-header-test on|off
 *
 * The argument says whether KVM can convert memory in place, i.e. the expected
 * result of gmem_probe().
 */
#include <gmem.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#define PAGE		4096ULL
#define NR_PAGES	16
#define BUSY_PAGE	5
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SHARED		0
#define UNTOUCHED	0x5a5aULL

static int kvm_fd, vm_fd, gmem_fd;
static char *mem;
static int nr_results, nr_failed;

static void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static __attribute__((format(printf, 2, 3))) void result(bool ok, const char *fmt, ...)
{
	va_list ap;

	printf("%sok %d ", ok ? "" : "not ", ++nr_results);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	nr_failed += !ok;
	fflush(stdout);
}

static void is(long seen, long wanted, const char *what)
{
	result(seen == wanted, "%s", what);
	if (seen != wanted)
		printf("# %ld instead of %ld\n", seen, wanted);
}

static int create_vm(unsigned long type)
{
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, type);

	if (fd < 0)
		die("KVM_CREATE_VM");
	return fd;
}

/* System calls report EFAULT instead of raising SIGBUS. */
static bool is_shared(int page)
{
	int pipe_fd[2];
	bool shared;

	if (pipe(pipe_fd))
		die("pipe");
	shared = write(pipe_fd[1], mem + page * PAGE, 1) == 1;
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return shared;
}

static void check_support(bool on)
{
	struct gmem_support support;
	int err = on ? 0 : -EOPNOTSUPP, fd;

	is(gmem_probe(kvm_fd, &support), err, "probe /dev/kvm");
	is(support.attributes, on ? PRIVATE : 0, "attributes of /dev/kvm");
	is(support.flags & GMEM_FLAGS, GMEM_FLAGS, "flags of /dev/kvm");

	is(gmem_probe(vm_fd, &support), err, "probe a VM");
	is(support.attributes, on ? PRIVATE : 0, "attributes of a VM");
	is(support.flags & GMEM_FLAGS, on ? GMEM_FLAGS : GUEST_MEMFD_FLAG_MMAP, "flags of a VM");

	fd = create_vm(0);
	is(gmem_probe(fd, &support), -EOPNOTSUPP, "probe a VM without private memory");
	is(support.attributes, 0, "attributes of a VM without private memory");
	is(support.flags & GMEM_FLAGS, GMEM_FLAGS, "flags of a VM without private memory");
	close(fd);

	memset(&support, 0xff, sizeof(support));
	is(gmem_probe(-1, &support), -EOPNOTSUPP, "probe an invalid file descriptor");
	is(support.attributes | support.flags, 0, "no attributes or flags of an invalid file descriptor");

	is(gmem_parameter(), on, "module parameter");
}

static void check_create(bool on)
{
	int fd;

	is(gmem_create(vm_fd, PAGE + 1, GUEST_MEMFD_FLAG_MMAP), -EINVAL, "create with an invalid size");
	is(gmem_create(vm_fd, PAGE, 1ULL << 63), -EINVAL, "create with an invalid flag");
	is(gmem_create(-1, PAGE, 0), -EBADF, "create without a VM");

	fd = gmem_create(vm_fd, PAGE, 0);
	result(fd >= 0, "create private memory");
	errno = 0;
	result(!gmem_map(fd, PAGE) && errno == ENODEV, "private memory cannot be mapped");
	close(fd);

	gmem_fd = gmem_create(vm_fd, NR_PAGES * PAGE, on ? GMEM_FLAGS : GUEST_MEMFD_FLAG_MMAP);
	result(gmem_fd >= 0, "create memory that can be mapped");
	mem = gmem_map(gmem_fd, NR_PAGES * PAGE);
	if (!mem)
		die("gmem_map");
	if (!on)
		is(gmem_create(vm_fd, PAGE, GMEM_FLAGS), -EINVAL, "create shared memory for a VM with private memory");
}

static void check_off(void)
{
	struct gmem_retry retry = { .deadline = GMEM_FOREVER };
	__u64 page = UNTOUCHED;

	is(gmem_try_convert(gmem_fd, 0, PAGE, SHARED, &page), -ENOTTY, "convert");
	is(gmem_convert(gmem_fd, 0, PAGE, PRIVATE, &retry, &page), -ENOTTY, "convert, with retries");
	is(page, UNTOUCHED, "ENOTTY names no page");
	result(!!strstr(gmem_strerror(-ENOTTY), "gmem_in_place_conversion"), "description of ENOTTY names the parameter");
}

static void check_convert(void)
{
	__u64 page = UNTOUCHED;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		mem[i * PAGE] = i;
	is(gmem_try_convert(gmem_fd, 2 * PAGE, 3 * PAGE, PRIVATE, &page), 0, "convert to private");
	for (i = 0; i < NR_PAGES; i++)
		if (is_shared(i) != (i < 2 || i >= 5))
			break;
	is(i, NR_PAGES, "pages that are shared");
	is(gmem_try_convert(gmem_fd, 0, NR_PAGES * PAGE, SHARED, &page), 0, "convert to shared");
	for (i = 0; i < NR_PAGES; i++)
		if (!is_shared(i) || mem[i * PAGE] != i)
			break;
	is(i, NR_PAGES, "pages keep their contents");
	is(gmem_try_convert(gmem_fd, 0, PAGE, SHARED, NULL), 0, "convert a page that is already shared");
	is(page, UNTOUCHED, "success names no page");
}

static void check_invalid(void)
{
	static const struct {
		const char *what;
		__u64 offset, size, attributes;
	} bad[] = {
		{ "an offset that is not aligned", PAGE / 2, PAGE, PRIVATE },
		{ "a size that is not aligned", 0, PAGE / 2, PRIVATE },
		{ "a size of 0", 0, 0, PRIVATE },
		{ "a range beyond the end", NR_PAGES * PAGE, PAGE, PRIVATE },
		{ "a range that wraps around", PAGE, -PAGE, PRIVATE },
		{ "an unknown attribute", 0, PAGE, PRIVATE | 1 },
	};
	struct gmem_retry retry = { .deadline = GMEM_FOREVER };
	__u64 page = UNTOUCHED;
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		is(gmem_try_convert(gmem_fd, bad[i].offset, bad[i].size, bad[i].attributes, &page),
		   -EINVAL, bad[i].what);
		is(gmem_convert(gmem_fd, bad[i].offset, bad[i].size, bad[i].attributes, &retry, &page),
		   -EINVAL, "an invalid request, with retries");
	}
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	is(gmem_try_convert(fd, 0, PAGE, PRIVATE, &page), -ENOTTY, "a file that is not a guest_memfd");
	close(fd);
	is(gmem_convert(-1, 0, PAGE, PRIVATE, &retry, &page), -EBADF, "no file");
	is(page, UNTOUCHED, "invalid requests name no page");
}

/* A user of a page: what is reported about it, and how it reacts. */
struct user {
	int pipe_fd[2];
	__u64 page;
	__u64 deadline;
	unsigned int nr_calls;
	unsigned int nr_late;
	unsigned int stop_at;		/* stop using the page at this call, 0: never */
	unsigned int give_up_at;
};

static bool page_is_busy(void *data, __u64 error_offset)
{
	struct user *user = data;

	user->nr_calls++;
	user->nr_late += gmem_now() >= user->deadline;
	user->page = error_offset;
	if (user->nr_calls == user->stop_at) {
		close(user->pipe_fd[0]);
		close(user->pipe_fd[1]);
	}
	return user->nr_calls != user->give_up_at;
}

/* A page in a pipe is in use until it is read, or the pipe is closed. */
static void use_page(struct user *user)
{
	struct iovec iov = { mem + BUSY_PAGE * PAGE, PAGE };

	memset(user, 0, sizeof(*user));
	user->deadline = GMEM_FOREVER;
	if (pipe(user->pipe_fd) || vmsplice(user->pipe_fd[1], &iov, 1, 0) != (ssize_t)PAGE)
		die("vmsplice");
}

static int convert_all(struct user *user, __u64 deadline, __u64 *page)
{
	struct gmem_retry retry = {
		.deadline = deadline,
		.pause = 1000000,
		.busy = user ? page_is_busy : NULL,
		.data = user,
	};

	return gmem_convert(gmem_fd, 0, NR_PAGES * PAGE, PRIVATE, &retry, page);
}

static void check_busy(void)
{
	__u64 page = UNTOUCHED, deadline;
	struct user user;

	use_page(&user);
	is(gmem_try_convert(gmem_fd, 0, NR_PAGES * PAGE, PRIVATE, &page), -EAGAIN, "a page in use");
	is(page, BUSY_PAGE * PAGE, "EAGAIN names the page in use");
	is(gmem_try_convert(gmem_fd, 0, NR_PAGES * PAGE, PRIVATE, NULL), -EAGAIN, "a page in use, without error_offset");

	page = UNTOUCHED;
	is(convert_all(&user, GMEM_ONCE, &page), -EAGAIN, "try once");
	is(page, BUSY_PAGE * PAGE, "GMEM_ONCE names the page in use");
	is(user.page, BUSY_PAGE * PAGE, "the callback gets the page in use");
	is(user.nr_calls, 1, "GMEM_ONCE is one attempt");
	is(convert_all(NULL, GMEM_ONCE, NULL), -EAGAIN, "try once, without a callback");

	user.nr_calls = 0;
	user.give_up_at = 2;
	is(convert_all(&user, GMEM_FOREVER, NULL), -EAGAIN, "the callback gives up");
	is(user.nr_calls, 2, "two attempts before the callback gives up");

	user.nr_calls = 0;
	user.give_up_at = 0;
	deadline = gmem_deadline(3000);
	result(deadline - gmem_now() <= 3000000000ULL, "deadline");
	user.deadline = deadline;
	is(convert_all(&user, deadline, &page), -EAGAIN, "try until the deadline");
	result(gmem_now() >= deadline, "no return before the deadline");
	result(user.nr_calls >= 1 && user.nr_late <= 1, "%u attempts, %u of them after the deadline",
	       user.nr_calls, user.nr_late);
	is(is_shared(0) && is_shared(BUSY_PAGE), true, "nothing is converted");

	user.nr_calls = 0;
	user.stop_at = 2;
	is(convert_all(&user, GMEM_FOREVER, &page), 0, "the callback stops using the page");
	is(user.nr_calls, 2, "no attempt fails after that");
	is(is_shared(0) || is_shared(BUSY_PAGE), false, "the whole range is converted");
	is(gmem_try_convert(gmem_fd, 0, NR_PAGES * PAGE, SHARED, NULL), 0, "convert to shared");
}

static void check_errors(void)
{
	static const struct {
		int err;
		bool names_page;
		enum gmem_next next;
		const char *name;
	} errors[] = {
		{ 0, false, GMEM_NEXT_GUEST, "success:" },
		{ -EAGAIN, true, GMEM_NEXT_RETRY, "EAGAIN:" },
		{ -EHWPOISON, true, GMEM_NEXT_REPLACE, "EHWPOISON:" },
		{ -ENOMEM, true, GMEM_NEXT_FREE_MEMORY, "ENOMEM:" },
		{ -EIO, false, GMEM_NEXT_STOP, "EIO:" },
		{ -EINVAL, false, GMEM_NEXT_FIX, "EINVAL:" },
		{ -ENOTTY, false, GMEM_NEXT_FIX, "ENOTTY:" },
		{ -EFAULT, false, GMEM_NEXT_FIX, "EFAULT:" },
		{ -EBADF, false, GMEM_NEXT_FIX, "Bad file descriptor" },
	};
	const char *text;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		text = gmem_strerror(errors[i].err);
		result(gmem_names_page(errors[i].err) == errors[i].names_page &&
		       gmem_next(errors[i].err) == errors[i].next &&
		       !strncmp(text, errors[i].name, strlen(errors[i].name)) && !strchr(text, '%') &&
		       text[strlen(text) - 1] != '\n', "description of %s", errors[i].name);
	}
}

/* A vCPU starts at the end of the first 4 GiB, where the memory has been removed. */
static void check_fault(void)
{
	const __u64 gpa = (1ULL << 32) - PAGE;
	struct kvm_userspace_memory_region2 region;
	struct gmem_fault fault;
	struct kvm_run *run;
	int vcpu_fd, r;

	memset(&region, 0, sizeof(region));
	region.flags = KVM_MEM_GUEST_MEMFD;
	region.guest_phys_addr = gpa;
	region.memory_size = PAGE;
	region.userspace_addr = (__u64)mem;
	region.guest_memfd = gmem_fd;
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION2, &region))
		die("KVM_SET_USER_MEMORY_REGION2");
	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		die("vCPU");

	munmap(mem, NR_PAGES * PAGE);
	close(gmem_fd);
	r = ioctl(vcpu_fd, KVM_RUN, 0);
	result(r && errno == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT, "an access that fails");
	fault = gmem_get_fault(run);
	is(fault.gpa, gpa, "address of the access that fails");
	is(fault.size, PAGE, "size of the access that fails");
	is(fault.flags, 0, "flags of the access that fails");
}

int main(int argc, char **argv)
{
	bool on = argc == 2 && !strcmp(argv[1], "on");

	if (!on && (argc != 2 || strcmp(argv[1], "off"))) {
		fprintf(stderr, "usage: %s on|off\n", argv[0]);
		return 2;
	}
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		die("/dev/kvm");
	vm_fd = create_vm(KVM_X86_SW_PROTECTED_VM);

	printf("TAP version 13\n");
	check_support(on);
	check_create(on);
	if (on) {
		check_convert();
		check_invalid();
		check_busy();
		check_fault();
	} else {
		check_off();
	}
	check_errors();
	printf("1..%d\n", nr_results);
	return nr_failed ? 1 : 0;
}
