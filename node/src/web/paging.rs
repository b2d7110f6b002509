//! Long lists, a part at a time.

use maud::{Markup, html};

/// Rows of one part.
pub(super) const ROWS: usize = 200;

/// The rows that are shown, and where they stand among all.
pub(super) struct Part<'t, T> {
    pub(super) rows: &'t [T],
    page: usize,
    pages: usize,
}

/// The part of that number, counted from 0; beyond the end is the last.
pub(super) fn part<T>(all: &[T], page: usize) -> Part<'_, T> {
    let pages = all.len().div_ceil(ROWS).max(1);
    let page = page.min(pages - 1);
    let rows = &all[page * ROWS..all.len().min((page + 1) * ROWS)];
    Part { rows, page, pages }
}

impl<T> Part<'_, T> {
    /// Links to the other parts; `path` ends where the number of a part goes. Nothing if there is only one.
    pub(super) fn links(&self, path: &str) -> Markup {
        html! {
            @if self.pages > 1 {
                nav.pages aria-label="Parts of the list" {
                    @for number in 0..self.pages {
                        a href={ (path) (number) } aria-current=[(number == self.page).then_some("page")] { (number + 1) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_on_one_page_and_beyond_the_end_is_the_end() {
        let all: Vec<usize> = (0..2 * ROWS + 1).collect();
        let parts: Vec<usize> = (0..3).flat_map(|page| part(&all, page).rows.to_vec()).collect();
        assert_eq!(parts, all);
        assert_eq!(part(&all, usize::MAX).rows, [2 * ROWS]);
        let links = part(&all, 1).links("/x?page=").into_string();
        assert!(links.contains("href=\"/x?page=1\" aria-current=\"page\"") && links.contains("/x?page=2"), "{links}");
        assert!(part::<u8>(&[], 7).rows.is_empty() && part(&all[..ROWS], 0).links("").into_string().is_empty());
    }
}
