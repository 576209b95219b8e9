// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test gmem_map in a VM's debugfs directory: the ranges of its guest_memfds,
 * and the memory allocated in them.
 */
#include <sys/stat.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define MAX_LINES	8192
#define WHOLE_PAGES	4096
#define MAP_LINE	"ino %lu start %lx nr_pages %lx %7s allocated %lu poisoned %lu"

struct map_line {
	u64 ino, start, nr, allocated, poisoned;
	bool private;
};

static struct map_line map[MAX_LINES];

static int map_open(struct kvm_vm *vm)
{
	struct stat st;
	char path[64];
	int fd;

	/* The VM was created by the main thread. */
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/gmem_map",
		 getpid(), vm->fd);
	fd = open(path, O_RDONLY);
	TEST_ASSERT(fd >= 0, "Cannot open %s, errno: %d", path, errno);
	TEST_ASSERT(!fstat(fd, &st) && !st.st_uid && (st.st_mode & 07777) == 0400,
		    "%s isn't owned by root with mode 0400", path);
	return fd;
}

/*
 * Read the rest of the map in pieces of @piece bytes.  All lines must be whole,
 * have the same form, and make sense.  Return their number.
 */
static int map_read(int fd, size_t piece)
{
	const size_t size = MAX_LINES * 128;
	char *text = calloc(1, size), *line, *rest = text, attribute[8] = "", end;
	int nr, nr_values;
	size_t len = 0;
	ssize_t r;

	while ((r = read(fd, text + len, min(piece, size - 1 - len))) > 0)
		len += r;
	TEST_ASSERT(!r && len < size - 1, "read() returned %ld, errno: %d", r, errno);

	for (nr = 0; (line = strsep(&rest, "\n")) && *line; nr++) {
		struct map_line *l = &map[nr];

		TEST_ASSERT(nr < MAX_LINES, "More than %d lines", MAX_LINES);
		nr_values = sscanf(line, MAP_LINE "%c", &l->ino, &l->start, &l->nr,
				   attribute, &l->allocated, &l->poisoned, &end);
		l->private = !strcmp(attribute, "private");
		TEST_ASSERT(nr_values == 6 && (l->private || !strcmp(attribute, "shared")) &&
			    l->nr && l->allocated <= l->nr && l->poisoned <= l->allocated,
			    "Unexpected line: '%s'", line);
	}
	free(text);
	return nr;
}

static int map_take(struct kvm_vm *vm)
{
	int fd = map_open(vm), nr = map_read(fd, 4096);

	kvm_close(fd);
	return nr;
}

static u64 ino_of(int fd)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), __KVM_SYSCALL_ERROR("fstat()", -1));
	return st.st_ino;
}

#define EXPECT_LINE(i, fd, _start, _nr, _private, _allocated)			\
do {										\
	const struct map_line *__line = &map[i];				\
										\
	EXPECT_EQ(ino_of(fd), __line->ino);					\
	EXPECT_EQ(_start, __line->start);					\
	EXPECT_EQ(_nr, __line->nr);						\
	EXPECT_EQ(_private, __line->private);					\
	EXPECT_EQ(_allocated, __line->allocated);				\
	EXPECT_EQ(0, __line->poisoned);						\
} while (0)

GMEM_FIXTURE(map, NR_PAGES)

/* The map contains only the VM's own files, in the order of their creation. */
TEST_F(map, files_and_vms)
{
	const u64 nr = (1ull << 46) / PAGE_SIZE, block = 512;
	struct kvm_vm *other;
	int fd, huge, their;

	gmem_allocate(g, 2, 3);
	gmem_make_private(g, 4, 6);
	ASSERT_EQ(3, map_take(g->vm));
	EXPECT_LINE(0, g->fd, 0, 4, false, 2);
	EXPECT_LINE(1, g->fd, 4, 6, true, 1);
	EXPECT_LINE(2, g->fd, 10, NR_PAGES - 10, false, 0);

	other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	ASSERT_EQ(0, map_take(other));
	huge = vm_create_guest_memfd(g->vm, nr * PAGE_SIZE, 0);
	their = vm_create_guest_memfd(other, PAGE_SIZE, 0);
	fd = vm_create_guest_memfd(g->vm, 4 * block * PAGE_SIZE, 0);

	/* A line covers any number of empty blocks, but only one with memory. */
	gmem_set_shared(huge, (nr - 2) * PAGE_SIZE, PAGE_SIZE);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 2 * block * PAGE_SIZE, 2 * block * PAGE_SIZE);
	ASSERT_EQ(3 + 3 + 3, map_take(g->vm));
	EXPECT_LINE(3, huge, 0, nr - 2, true, 0);
	EXPECT_LINE(4, huge, nr - 2, 1, false, 0);
	EXPECT_LINE(5, huge, nr - 1, 1, true, 0);
	EXPECT_LINE(6, fd, 0, 2 * block, true, 0);
	EXPECT_LINE(7, fd, 2 * block, block, true, block);
	EXPECT_LINE(8, fd, 3 * block, block, true, block);

	ASSERT_EQ(1, map_take(other));
	kvm_close(fd);
	kvm_close(their);
	kvm_close(huge);
	kvm_vm_free(other);
}

TEST_F(map, poisoned_page)
{
	SKIP_IF(hwpoison_unsupported());

	memset(g->mem, 0xaa, 8 * PAGE_SIZE);
	ASSERT_EQ(0, gmem_poison(g, 5));
	ASSERT_EQ(1, map_take(g->vm));
	EXPECT_EQ(8, map[0].allocated);
	EXPECT_EQ(1, map[0].poisoned);

	gmem_punch_hole(g, 5, 1);
	ASSERT_EQ(1, map_take(g->vm));
	EXPECT_LINE(0, g->fd, 0, NR_PAGES, false, 7);
	ASSERT_EQ(0, hwpoison_unpoison_all());
}

/* The map depends neither on how it is read, nor on changes to other files. */
TEST_F_TIMEOUT(map, in_pieces, 120)
{
	static const size_t pieces[] = { 7, 1 << 16 };
	const int nr = 2048, size = nr * PAGE_SIZE;
	int first, second, fd, nr_lines, p, i;
	char c, text[1024];

	first = vm_create_guest_memfd(g->vm, size, 0);
	second = vm_create_guest_memfd(g->vm, size, 0);
	for (i = 0; i < nr; i += 2) {
		gmem_set_shared(first, i * PAGE_SIZE, PAGE_SIZE);
		gmem_set_shared(second, i * PAGE_SIZE, PAGE_SIZE);
	}

	fd = map_open(g->vm);
	for (p = 0; p < ARRAY_SIZE(pieces); p++) {
		ASSERT_EQ(1 + 2 * nr, map_read(fd, pieces[p]));
		for (i = 0; i < nr; i++) {
			EXPECT_LINE(1 + i, first, i, 1, i & 1, 0);
			EXPECT_LINE(1 + nr + i, second, i, 1, i & 1, 0);
		}
		ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	}

	/* Close the file whose lines are being read, and create another one. */
	ASSERT_EQ(sizeof(text), read(fd, text, sizeof(text)));
	kvm_close(first);
	first = vm_create_guest_memfd(g->vm, size, 0);
	while (read(fd, &c, 1) == 1 && c != '\n')
		;
	nr_lines = map_read(fd, 100);
	/* Lines that are already in the buffer, which is a page, are still returned. */
	for (i = 0; i < nr_lines && map[i].ino != ino_of(second); i++)
		EXPECT_LT(1, map[i].start);
	EXPECT_GT(200, i);
	ASSERT_EQ(i + nr + 1, nr_lines);
	EXPECT_LINE(i, second, 0, 1, false, 0);
	EXPECT_LINE(i + nr - 1, second, nr - 1, 1, true, 0);
	EXPECT_LINE(i + nr, first, 0, nr, true, 0);

	kvm_close(fd);
	kvm_close(first);
	kvm_close(second);
}

/* A map that is open and has been read keeps neither the VM nor its files alive. */
TEST_F_TIMEOUT(map, without_vm, 120)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	const u64 size = 16 << 20, limit = read_meminfo("Unevictable:") + size / 2;
	int fd, map_fd, i;
	char c;

	fd = vm_create_guest_memfd(vm, size, 0);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size);
	ASSERT_LT(limit, read_meminfo("Unevictable:"));

	map_fd = map_open(vm);
	ASSERT_EQ(1, read(map_fd, &c, 1));
	kvm_close(fd);
	for (i = 0; i < 2000 && read_meminfo("Unevictable:") > limit; i++)
		usleep(10000);
	ASSERT_GE(limit, read_meminfo("Unevictable:"));

	kvm_vm_free(vm);
	ASSERT_EQ(-1, read(map_fd, &c, 1));
	EXPECT_EQ(EIO, errno);
	kvm_close(map_fd);
}

static int whole_fd;		/* a file that is always converted as a whole */

static bool look(u64 n)
{
	struct gmem_fdinfo info = gmem_read_fdinfo(getpid(), g->fd);
	int fd = map_open(g->vm), nr = map_read(fd, 20 + n % 100), i;
	u64 next = 0;

	kvm_close(fd);
	TEST_ASSERT(info.private <= DATA_SIZE && info.allocated <= NR_PAGES &&
		    info.ranges >= 1 && info.ranges <= NR_PAGES && !info.poisoned,
		    "fdinfo: private %lu allocated %lu ranges %lu poisoned %lu",
		    info.private, info.allocated, info.ranges, info.poisoned);

	for (i = 0; i < nr - 1; i++) {
		TEST_ASSERT(map[i].ino == ino_of(g->fd) && map[i].start == next,
			    "Line %d is for page %lu of inode %lu", i, map[i].start, map[i].ino);
		next += map[i].nr;
	}
	TEST_ASSERT(next == NR_PAGES && map[i].ino == ino_of(whole_fd) &&
		    map[i].start == 0 && map[i].nr == WHOLE_PAGES,
		    "%d lines cover %lu pages, and the next line %lu pages from page %lu on",
		    i, next, map[i].nr, map[i].start);
	return true;
}

/*
 * Reading the map or fdinfo doesn't disturb conversions, a line shows a single
 * state of the file, and no value is out of bounds.
 */
TEST_F_TIMEOUT(map, racing, 120)
{
	struct worker looker = { "look", look };
	struct timespec start = time_now();
	int round, page;

	whole_fd = vm_create_guest_memfd(g->vm, WHOLE_PAGES * PAGE_SIZE, 0);
	workers_start(&looker, 1);
	for (round = 0; elapsed_ms(start) < 3000 || READ_ONCE(looker.nr_done) < 100; round++) {
		page = round * 7 % (NR_PAGES - 2);
		WRITE_ONCE(*gmem_hva(g, page), round);
		ASSERT_CONVERTED(page, 3, PRIVATE);
		ASSERT_CONVERTED(page + 1, 1, SHARED);
		if (!(round % 8))
			gmem_punch_hole(g, page, 2);
		gmem_set_shared(whole_fd, 0, WHOLE_PAGES * PAGE_SIZE);
		ASSERT_CONVERTED(0, NR_PAGES, SHARED);
		gmem_set_private(whole_fd, 0, WHOLE_PAGES * PAGE_SIZE);
	}
	workers_stop(&looker, 1);
	kvm_close(whole_fd);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?:
	       access_unsupported("/sys/kernel/debug/kvm", F_OK,
				  "no debugfs in /sys/kernel/debug"))
