// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the time that a conversion waits for pages in use and for the
 * rate of LRU cache drains, with a simulated clock.
 *
 * The limits are spelled out here, not shared with the code under test.
 */
#include <kunit/test.h>
#include <linux/time64.h>
#include <linux/types.h>

#include "guest_memfd_wait.h"

#define MS	((u64)NSEC_PER_MSEC)
#define TURN	(3 * MS / 2)
#define STEP	(3 * MS / 2)

/* Longer than any limit, e.g. the time for which a task may be preempted. */
#define LONG	(10000 * MS)

struct wait_test {
	struct kvm_gmem_wait wait;
	struct kvm_gmem_drain_budget budget;
	u64 start;
	u64 now;
};

/* The machine has just been booted, or has been up for years. */
static const struct wait_test_param {
	const char *desc;
	u64 start;
} wait_test_params[] = {
	{ "clock_at_0",		0 },
	{ "clock_at_1ns",	1 },
	{ "clock_at_10_years",	3650ull * 24 * 3600 * NSEC_PER_SEC },
};

KUNIT_ARRAY_PARAM_DESC(wait_test, wait_test_params, desc);

static int wait_test_init(struct kunit *test)
{
	const struct wait_test_param *p = test->param_value;
	struct wait_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;

	t->start = p->start;
	t->now = p->start;
	test->priv = t;
	return 0;
}

static void wait_test_begin(struct wait_test *t, unsigned long page)
{
	kvm_gmem_wait_for(&t->wait, t->now, page);
}

static bool wait_test_look(struct wait_test *t, bool contended)
{
	return kvm_gmem_wait_hold(&t->wait, t->now, contended);
}

static bool wait_test_expired(struct wait_test *t)
{
	return kvm_gmem_wait_expired(&t->wait);
}

/* Look at a page in use every ms until @end, and expect no report of it. */
static void wait_test_look_until(struct kunit *test, u64 end)
{
	struct wait_test *t = test->priv;

	while (t->now < end) {
		t->now = min(t->now + MS, end);
		KUNIT_ASSERT_TRUE(test, wait_test_look(t, false));
		KUNIT_ASSERT_FALSE(test, wait_test_expired(t));
	}
}

/* Expect the page to be reported at @end, and not a moment earlier. */
static void wait_test_expires_at(struct kunit *test, u64 end)
{
	struct wait_test *t = test->priv;

	wait_test_look_until(test, end - 1);

	t->now = end;
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, false));
	KUNIT_EXPECT_TRUE(test, wait_test_expired(t));
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, true));
	KUNIT_EXPECT_TRUE(test, wait_test_expired(t));
}

static void wait_test_not_waiting(struct kunit *test)
{
	struct wait_test *t = test->priv;

	KUNIT_EXPECT_FALSE(test, wait_test_expired(t));
	t->now += LONG;
	KUNIT_EXPECT_FALSE(test, wait_test_expired(t));

	/* Time that passed before the wait does not count. */
	wait_test_begin(t, 0);
	KUNIT_EXPECT_FALSE(test, wait_test_expired(t));
	wait_test_expires_at(test, t->now + 100 * MS);
}

static void wait_test_page_expires(struct kunit *test)
{
	struct wait_test *t = test->priv;

	wait_test_begin(t, 7);
	wait_test_expires_at(test, t->start + 100 * MS);
}

static void wait_test_page_expires_across_pauses(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		wait_test_begin(t, 7);
		wait_test_look_until(test, t->now + 20 * MS);
		kvm_gmem_wait_pause(&t->wait, t->now);
		t->now += MS;
		KUNIT_EXPECT_TRUE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
		t->now += MS;
		KUNIT_EXPECT_FALSE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
	}
	wait_test_begin(t, 7);
	wait_test_expires_at(test, t->start + 100 * MS);
}

/* A look that is late, as on a slow machine, counts as 1.5 ms. */
static void wait_test_late_looks(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < 66; i++) {
		if (!(i % 10))
			wait_test_begin(t, 7);
		t->now += LONG;
		KUNIT_EXPECT_TRUE(test, wait_test_look(t, false));
		KUNIT_EXPECT_FALSE(test, wait_test_expired(t));
	}
	t->now += LONG;
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, false));
	KUNIT_EXPECT_TRUE(test, wait_test_expired(t));
}

static void wait_test_late_looks_in_pause(struct kunit *test)
{
	struct wait_test *t = test->priv;

	wait_test_begin(t, 7);
	kvm_gmem_wait_pause(&t->wait, t->now);
	t->now += LONG;
	KUNIT_EXPECT_FALSE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
	wait_test_begin(t, 7);
	wait_test_expires_at(test, t->now + 100 * MS - STEP);
}

/* Only time waited counts, not e.g. a walk of millions of pages. */
static void wait_test_time_in_between(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned long page;

	for (page = 0; page < 100; page++) {
		wait_test_begin(t, page);
		wait_test_look_until(test, t->now + 1);
		wait_test_look_until(test, t->now + 19 * MS - 1);
		t->now += LONG;
	}
	wait_test_begin(t, page);
	wait_test_expires_at(test, t->now + 100 * MS);
}

static void wait_test_other_page(struct kunit *test)
{
	struct wait_test *t = test->priv;

	wait_test_begin(t, 7);
	wait_test_look_until(test, t->start + 90 * MS);
	wait_test_begin(t, 8);
	wait_test_look_until(test, t->start + 180 * MS);
	/* The time waited for page 7 earlier is forgotten. */
	wait_test_begin(t, 7);
	wait_test_expires_at(test, t->start + 280 * MS);
}

static void wait_test_all_pages_expire(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned long page;

	for (page = 0; page < 22; page++) {
		wait_test_begin(t, page);
		wait_test_look_until(test, t->start + (page + 1) * 90 * MS);
	}
	wait_test_begin(t, page);
	wait_test_expires_at(test, t->start + 2000 * MS);
}

static void wait_test_unused_page(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	for (i = 1; i <= 22; i++) {
		wait_test_begin(t, 7);
		wait_test_look_until(test, t->start + i * 90 * MS);
		kvm_gmem_wait_pause(&t->wait, t->now);
		KUNIT_EXPECT_FALSE(test, kvm_gmem_wait_paused(&t->wait, t->now, false));
	}
	wait_test_begin(t, 7);
	wait_test_expires_at(test, t->start + 2000 * MS);
}

static void wait_test_users_changed(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	wait_test_begin(t, 7);
	for (i = 1; i <= 22; i++) {
		wait_test_look_until(test, t->start + i * 90 * MS);
		kvm_gmem_wait_users_changed(&t->wait);
	}
	wait_test_expires_at(test, t->start + 2000 * MS);
}

static void wait_test_drain_due(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int attempt, i;

	for (attempt = 0; attempt < 2; attempt++) {
		wait_test_begin(t, 7);
		for (i = 0; i < 40; i++) {
			KUNIT_EXPECT_EQ(test, kvm_gmem_wait_drain_due(&t->wait),
					i == 16 || i == 32);
			t->now += MS / 10;
			KUNIT_ASSERT_TRUE(test, wait_test_look(t, false));
		}
	}
}

/* Other tasks want the lock, so there are few looks at each of many pages. */
static void wait_test_all_pages_expire_contended(struct kunit *test)
{
	struct wait_test *t = test->priv;
	u64 waited = 0, since;
	unsigned long page;

	for (page = 0; waited < 2000 * MS; page++) {
		KUNIT_ASSERT_FALSE(test, wait_test_expired(t));
		wait_test_begin(t, page);
		since = t->now;
		do {
			t->now += MS / 5;
		} while (wait_test_look(t, true));
		waited += t->now - since;
		t->now += 4 * MS;
	}
	KUNIT_EXPECT_TRUE(test, wait_test_expired(t));
}

static void wait_test_hold(struct kunit *test)
{
	struct wait_test *t = test->priv;

	wait_test_begin(t, 7);
	KUNIT_EXPECT_TRUE(test, wait_test_look(t, true));
	t->now += TURN - 1;
	KUNIT_EXPECT_TRUE(test, wait_test_look(t, true));
	t->now += 1;
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, true));
	KUNIT_EXPECT_FALSE(test, wait_test_expired(t));

	/* Unless other tasks want the lock, there is no such limit. */
	KUNIT_EXPECT_TRUE(test, wait_test_look(t, false));
	t->now += 50 * MS;
	KUNIT_EXPECT_TRUE(test, wait_test_look(t, false));
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, true));

	/* Each attempt has its own limit. */
	wait_test_begin(t, 7);
	t->now += TURN - 1;
	KUNIT_EXPECT_TRUE(test, wait_test_look(t, true));
	t->now += 1;
	KUNIT_EXPECT_FALSE(test, wait_test_look(t, true));
}

static void wait_test_pause(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	wait_test_begin(t, 7);
	for (i = 0; i < 2; i++) {
		kvm_gmem_wait_pause(&t->wait, t->now);
		KUNIT_EXPECT_TRUE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
		t->now += TURN - 1;
		KUNIT_EXPECT_TRUE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
		t->now += 1;
		KUNIT_EXPECT_FALSE(test, kvm_gmem_wait_paused(&t->wait, t->now, true));
	}

	kvm_gmem_wait_pause(&t->wait, t->now);
	KUNIT_EXPECT_FALSE(test, kvm_gmem_wait_paused(&t->wait, t->now, false));
}

static void wait_test_moved(struct kunit *test)
{
	struct wait_test *t = test->priv;

	KUNIT_EXPECT_FALSE(test, t->wait.moved);
	wait_test_begin(t, 7);
	KUNIT_EXPECT_FALSE(test, t->wait.moved);
	wait_test_begin(t, 7);
	KUNIT_EXPECT_FALSE(test, t->wait.moved);

	kvm_gmem_wait_pause(&t->wait, t->now);
	kvm_gmem_wait_paused(&t->wait, t->now, false);
	wait_test_begin(t, 7);
	KUNIT_EXPECT_FALSE(test, t->wait.moved);

	wait_test_begin(t, 8);
	KUNIT_EXPECT_TRUE(test, t->wait.moved);

	/* Once set, the flag stays set. */
	wait_test_begin(t, 8);
	KUNIT_EXPECT_TRUE(test, t->wait.moved);
	wait_test_begin(t, 7);
	KUNIT_EXPECT_TRUE(test, t->wait.moved);
}

/* Drain until refused, and return the number of drains. */
static unsigned int drain_test_burst(struct wait_test *t)
{
	unsigned int nr = 0;

	while (nr < 100 && kvm_gmem_drain_take(&t->budget, t->now))
		nr++;
	return nr;
}

static void drain_test_rate(struct kunit *test)
{
	struct wait_test *t = test->priv;
	unsigned int i;

	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
	for (i = 0; i < 10; i++) {
		t->now += 50 * MS - 1;
		KUNIT_EXPECT_EQ(test, drain_test_burst(t), 0);
		t->now += 1;
		KUNIT_EXPECT_EQ(test, drain_test_burst(t), 1);
	}

	t->now += 100 * MS;
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 2);
	t->now += LONG;
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
}

static void drain_test_give_back(struct wait_test *t, unsigned int nr)
{
	kvm_gmem_drain_refund(&t->budget, t->now, nr, t->budget.spent_until);
}

static void drain_test_refund(struct kunit *test)
{
	struct wait_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
	drain_test_give_back(t, 1);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 1);
	drain_test_give_back(t, 3);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 3);
	drain_test_give_back(t, 4);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
}

/* Some or all of the drains have already come back over time. */
static void drain_test_late_refund(struct kunit *test)
{
	struct wait_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
	t->now += 100 * MS;
	drain_test_give_back(t, 4);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);

	t->now += LONG;
	drain_test_give_back(t, 4);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
}

/* A refund must not give back drains by others. */
static void drain_test_refund_after_others(struct kunit *test)
{
	struct wait_test *t = test->priv;
	u64 spent_until;

	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
	spent_until = t->budget.spent_until;

	t->now += 100 * MS;
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 2);
	kvm_gmem_drain_refund(&t->budget, t->now, 4, spent_until);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 2);

	t->now += 200 * MS;
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 4);
	kvm_gmem_drain_refund(&t->budget, t->now, 4, spent_until);
	KUNIT_EXPECT_EQ(test, drain_test_burst(t), 0);
}

static struct kunit_case wait_test_cases[] = {
	KUNIT_CASE_PARAM(wait_test_not_waiting, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_page_expires, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_page_expires_across_pauses, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_late_looks, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_late_looks_in_pause, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_time_in_between, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_other_page, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_all_pages_expire, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_unused_page, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_users_changed, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_drain_due, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_all_pages_expire_contended, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_hold, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_pause, wait_test_gen_params),
	KUNIT_CASE_PARAM(wait_test_moved, wait_test_gen_params),
	KUNIT_CASE_PARAM(drain_test_rate, wait_test_gen_params),
	KUNIT_CASE_PARAM(drain_test_refund, wait_test_gen_params),
	KUNIT_CASE_PARAM(drain_test_late_refund, wait_test_gen_params),
	KUNIT_CASE_PARAM(drain_test_refund_after_others, wait_test_gen_params),
	{}
};

static struct kunit_suite wait_test_suite = {
	.name = "kvm-gmem-wait",
	.init = wait_test_init,
	.test_cases = wait_test_cases,
};

kunit_test_suite(wait_test_suite);
