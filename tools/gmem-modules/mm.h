/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The functions that the series adds to mm/ or exports, as far as modules can provide them with what the stock kernel
 * exports.
 */
#ifndef GMEM_MODULES_MM_H
#define GMEM_MODULES_MM_H

#include <linux/folio_batch.h>
#include <linux/gfp.h>
#include <linux/pagemap.h>

/* Drain this CPU's LRU caches, as releasing even an empty batch does. */
static inline void lru_add_drain(void)
{
	struct folio_batch fbatch;

	folio_batch_init(&fbatch);
	__folio_batch_release(&fbatch);
}

/* The NUMA policy of the task, not that of the file, applies to chunks of 2 MiB. */
#define mpol_alloc_pages(gfp, order, pol, ilx, nid)	alloc_pages(gfp, order)

/* Add the pages one by one, and drain the LRU caches, whose references would make the pages look in use. */
static inline int filemap_add_pages(struct address_space *mapping, struct page *pages, unsigned int nr, pgoff_t index,
				    gfp_t gfp)
{
	unsigned int added, i;
	int err = 0;

	for (added = 0; added < nr && !err; added += !err)
		err = filemap_add_folio(mapping, page_folio(pages + added), index + added, gfp);

	for (i = 0; err && i < added; i++) {
		generic_error_remove_folio(mapping, page_folio(pages + i));
		folio_unlock(page_folio(pages + i));
	}
	/* The page cache has its own references. */
	for (i = 0; i < nr; i++)
		folio_put(page_folio(pages + i));

	lru_add_drain();
	return err;
}

#endif
