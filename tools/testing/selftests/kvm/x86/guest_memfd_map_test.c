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
	char path[64];

	/* The VM was created by the main thread. */
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/gmem_map",
		 getpid(), vm->fd);
	return open(path, O_RDONLY);
}

/* Parse whole lines, all of which must have the same form. */
static int map_parse(char *text, struct map_line *lines, int max)
{
	char *line, attribute[8], end;
	int nr;

	for (nr = 0; (line = strsep(&text, "\n")) && *line; nr++) {
		struct map_line *l = &lines[nr];

		TEST_ASSERT(nr < max, "More than %d lines", max);
		TEST_ASSERT(sscanf(line, MAP_LINE "%c",
				   &l->ino, &l->start, &l->nr, attribute, &l->allocated,
				   &l->poisoned, &end) == 6, "Malformed line: '%s'", line);
		l->private = !strcmp(attribute, "private");
		TEST_ASSERT(l->private || !strcmp(attribute, "shared"),
			    "Neither private nor shared: '%s'", line);
		TEST_ASSERT(l->nr && l->allocated <= l->nr && l->poisoned <= l->allocated,
			    "Impossible number of pages: '%s'", line);
	}
	return nr;
}

/* Read the rest of the map in pieces of @piece bytes. */
static int map_read(int fd, size_t piece, struct map_line *lines, int max)
{
	size_t size = max * 128, len = 0;
	char *text = malloc(size);
	ssize_t r;
	int nr;

	TEST_ASSERT(text, "Out of memory");
	while ((r = read(fd, text + len, min_t(size_t, piece, size - 1 - len))) > 0)
		len += r;
	TEST_ASSERT(!r && len < size - 1, "read() returned %ld, errno: %d", r, errno);
	text[len] = '\0';
	nr = map_parse(text, lines, max);
	free(text);
	return nr;
}

static int map_take(struct kvm_vm *vm)
{
	int fd = map_open(vm), nr;

	TEST_ASSERT(fd >= 0, "Cannot open gmem_map, errno: %d", errno);
	nr = map_read(fd, 4096, map, MAX_LINES);
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

	ASSERT_EQ(1, map_take(g->vm));
	EXPECT_LINE(0, g->fd, 0, NR_PAGES, false, 0);

	gmem_allocate(g, 2, 3);
	gmem_make_private(g, 4, 6);
	ASSERT_EQ(3, map_take(g->vm));
	EXPECT_LINE(0, g->fd, 0, 4, false, 2);
	EXPECT_LINE(1, g->fd, 4, 6, true, 1);
	EXPECT_LINE(2, g->fd, 10, NR_PAGES - 10, false, 0);

	other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	ASSERT_EQ(0, map_take(other));
	huge = vm_create_guest_memfd(g->vm, 1ull << 46, 0);
	their = vm_create_guest_memfd(other, PAGE_SIZE, 0);
	fd = vm_create_guest_memfd(g->vm, 4 * block * PAGE_SIZE, 0);

	/* A line covers any number of empty blocks, but only one with memory. */
	gmem_set_shared(huge, (nr - 2) * PAGE_SIZE, PAGE_SIZE);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, (2 * block + 300) * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(3 + 3 + 3, map_take(g->vm));
	EXPECT_LINE(3, huge, 0, nr - 2, true, 0);
	EXPECT_LINE(4, huge, nr - 2, 1, false, 0);
	EXPECT_LINE(5, huge, nr - 1, 1, true, 0);
	EXPECT_LINE(6, fd, 0, 2 * block, true, 0);
	EXPECT_LINE(7, fd, 2 * block, block, true, gmem_read_fdinfo(getpid(), fd).allocated);
	EXPECT_LINE(8, fd, 3 * block, block, true, 0);

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4 * block * PAGE_SIZE);
	kvm_close(huge);
	ASSERT_EQ(3 + 4, map_take(g->vm));
	EXPECT_LINE(3, fd, 0, block, true, block);
	EXPECT_LINE(6, fd, 3 * block, block, true, block);

	ASSERT_EQ(1, map_take(other));
	EXPECT_LINE(0, their, 0, 1, true, 0);
	kvm_close(their);
	kvm_close(fd);
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
	const int nr = 2048, size = nr * PAGE_SIZE;
	static struct map_line rest[MAX_LINES];
	int first, second, third, fd, nr_lines, i;
	char piece[8], text[1024];

	first = vm_create_guest_memfd(g->vm, size, 0);
	second = vm_create_guest_memfd(g->vm, size, 0);
	for (i = 0; i < nr; i += 2) {
		gmem_set_shared(first, i * PAGE_SIZE, PAGE_SIZE);
		gmem_set_shared(second, i * PAGE_SIZE, PAGE_SIZE);
	}

	fd = map_open(g->vm);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1 + 2 * nr, map_read(fd, 7, map, MAX_LINES));
	for (i = 0; i < nr; i++) {
		EXPECT_LINE(1 + i, first, i, 1, i & 1, 0);
		EXPECT_LINE(1 + nr + i, second, i, 1, i & 1, 0);
	}

	/* Read again from the start, and from the middle of a line. */
	ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	ASSERT_EQ(1 + 2 * nr, map_read(fd, 1 << 16, rest, MAX_LINES));
	EXPECT_EQ(0, memcmp(map, rest, (1 + 2 * nr) * sizeof(map[0])));
	ASSERT_EQ(2, pread(fd, piece, 2, 1));
	EXPECT_EQ(0, memcmp(piece, "no", 2));

	/* Close the file whose lines are being read, and create another. */
	ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	ASSERT_EQ(sizeof(text), read(fd, text, sizeof(text)));
	kvm_close(first);
	third = vm_create_guest_memfd(g->vm, size, 0);
	gmem_set_shared(third, 0, PAGE_SIZE);
	while (read(fd, piece, 1) == 1 && *piece != '\n')
		;
	nr_lines = map_read(fd, 100, map, MAX_LINES);
	/* Lines that are already in the buffer are still returned. */
	for (i = 0; i < nr_lines && map[i].ino != ino_of(second); i++)
		EXPECT_LT(1, map[i].start);
	EXPECT_GT(200, i);
	ASSERT_EQ(i + nr + 2, nr_lines);
	EXPECT_LINE(i, second, 0, 1, false, 0);
	EXPECT_LINE(i + nr - 1, second, nr - 1, 1, true, 0);
	EXPECT_LINE(i + nr, third, 0, 1, false, 0);
	EXPECT_LINE(i + nr + 1, third, 1, nr - 1, true, 0);

	kvm_close(fd);
	kvm_close(second);
	kvm_close(third);
}

static bool unevictable_gets(bool above, u64 limit)
{
	int i;

	for (i = 0; i < 2000; i++) {
		if ((read_meminfo("Unevictable:") > limit) == above)
			return true;
		usleep(10000);
	}
	return false;
}

/* A map that is open and has been read keeps neither the VM nor its files alive. */
TEST_F_TIMEOUT(map, without_vm, 120)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	const u64 size = 16 << 20, before = read_meminfo("Unevictable:");
	int fd, map_fd;
	char c;

	fd = vm_create_guest_memfd(vm, size, 0);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size);
	ASSERT_TRUE(unevictable_gets(true, before + size / 2));

	map_fd = map_open(vm);
	ASSERT_LE(0, map_fd);
	ASSERT_EQ(1, read(map_fd, &c, 1));
	kvm_close(fd);
	ASSERT_TRUE(unevictable_gets(false, before + size / 2));

	kvm_vm_free(vm);
	ASSERT_EQ(-1, read(map_fd, &c, 1));
	EXPECT_EQ(EIO, errno);
	kvm_close(map_fd);
}

TEST_F(map, is_for_root)
{
	char path[32];
	struct stat st;
	int fd;

	fd = map_open(g->vm);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(0400, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_uid);

	/* Bypass the directories, which may be accessible only by root as well. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ASSERT_IN_CHILD(!setuid(65534) && open(path, O_RDONLY) == -1 && errno == EACCES);
	kvm_close(fd);
}

static int whole_fd;		/* a file that is always converted as a whole */

static bool look_at_fdinfo(u64 n)
{
	struct gmem_fdinfo info = gmem_read_fdinfo(getpid(), g->fd);

	TEST_ASSERT(info.private <= DATA_SIZE &&
		    info.private + info.shared == DATA_SIZE &&
		    info.ranges >= 1 && info.ranges <= NR_PAGES &&
		    info.allocated <= NR_PAGES && !info.poisoned,
		    "private %lu shared %lu ranges %lu allocated %lu poisoned %lu",
		    info.private, info.shared, info.ranges, info.allocated,
		    info.poisoned);
	return true;
}

static bool look_at_map(u64 n)
{
	static struct map_line lines[NR_PAGES + 8];
	int fd = map_open(g->vm), nr, i;
	u64 next = 0;

	TEST_ASSERT(fd >= 0, "Cannot open gmem_map, errno: %d", errno);
	nr = map_read(fd, 20 + n % 100, lines, ARRAY_SIZE(lines));
	kvm_close(fd);

	for (i = 0; i < nr && lines[i].ino == ino_of(g->fd); i++) {
		TEST_ASSERT(lines[i].start == next, "Line %d starts at page %lu, not %lu", i,
			    lines[i].start, next);
		next += lines[i].nr;
	}
	TEST_ASSERT(next == NR_PAGES, "The lines cover %lu pages", next);
	TEST_ASSERT(i == nr - 1 && lines[i].ino == ino_of(whole_fd) &&
		    lines[i].start == 0 && lines[i].nr == WHOLE_PAGES,
		    "Line %d of %d, of the other file, starts at page %lu and has %lu pages",
		    i, nr, lines[i].start, lines[i].nr);
	return true;
}

/*
 * Reading the map or fdinfo doesn't disturb conversions, a line shows a single
 * state of the file, and no value is out of bounds.
 */
TEST_F_TIMEOUT(map, racing, 120)
{
	struct worker lookers[] = {
		{ "read the map", look_at_map },
		{ "read fdinfo", look_at_fdinfo },
	};
	struct timespec start = time_now();
	int round, page;

	whole_fd = vm_create_guest_memfd(g->vm, WHOLE_PAGES * PAGE_SIZE, 0);
	workers_start(lookers, 2);
	for (round = 0; elapsed_ms(start) < 3000 || READ_ONCE(lookers[0].nr_done) < 100 ||
	     READ_ONCE(lookers[1].nr_done) < 100; round++) {
		page = round * 7 % (NR_PAGES - 2);
		WRITE_ONCE(*gmem_hva(g, page), round);
		ASSERT_CONVERTED(page, 3, PRIVATE);
		if (round & 1)
			ASSERT_CONVERTED(page + 1, 1, SHARED);
		if (!(round % 8))
			gmem_punch_hole(g, page, 2);
		gmem_set_shared(whole_fd, 0, WHOLE_PAGES * PAGE_SIZE);
		ASSERT_CONVERTED(0, NR_PAGES, SHARED);
		gmem_set_private(whole_fd, 0, WHOLE_PAGES * PAGE_SIZE);
	}
	workers_stop(lookers, 2);
	kvm_close(whole_fd);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?:
	       access_unsupported("/sys/kernel/debug/kvm", F_OK,
				  "no debugfs in /sys/kernel/debug"))
