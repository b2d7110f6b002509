//! Where the labels of lines stand: on their line, where they cover neither a box nor another label. Pure.

use std::collections::BTreeMap;

/// A cubic Bézier curve.
pub(super) type Curve = [(f64, f64); 4];

/// How far along a curve a label may stand, what is best first: before its end, where lines have parted.
const SHARES: [f64; 9] = [0.62, 0.52, 0.42, 0.72, 0.34, 0.8, 0.26, 0.88, 0.18];
/// Above and below its baseline.
const ABOVE: f64 = 11.0;
const BELOW: f64 = 3.0;
/// Parts of a line between its first and its last where its label may stand.
const BETWEEN: usize = 4;
/// Width of the columns in which what is taken lies: what is in others is not compared.
const COLUMN: f64 = 256.0;
/// Of the baseline above the line.
const LIFT: f64 = 5.0;

/// A rectangle: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area(pub(super) f64, pub(super) f64, pub(super) f64, pub(super) f64);

impl Area {
    /// How much of both is the same.
    fn covers(&self, other: &Self) -> f64 {
        let width = self.2.min(other.2) - self.0.max(other.0);
        let height = self.3.min(other.3) - self.1.max(other.1);
        width.max(0.0) * height.max(0.0)
    }
}

/// What is taken so far, by column.
#[derive(Debug, Default)]
pub(super) struct Labels(BTreeMap<i64, Vec<Area>>);

impl Labels {
    /// None yet, among these boxes.
    pub(super) fn among(boxes: impl IntoIterator<Item = Area>) -> Self {
        let mut labels = Self::default();
        boxes.into_iter().for_each(|area| labels.take(area));
        labels
    }

    /// In each column its own part of it.
    fn take(&mut self, area: Area) {
        for (column, part) in columns(area) {
            self.0.entry(column).or_default().push(part);
        }
    }

    /// How much of what is taken it would cover.
    fn covered(&self, area: Area) -> f64 {
        let within = |(column, part): (i64, Area)| -> f64 {
            self.0.get(&column).map_or(0.0, |taken| taken.iter().map(|one| one.covers(&part)).sum())
        };
        columns(area).map(within).sum()
    }

    /// Middle and baseline of a label that reaches so far to the left and to the right; where every place is taken, the one where it covers
    /// least.
    pub(super) fn place(&mut self, line: &[Curve], (left, right): (f64, f64)) -> (f64, f64) {
        let mut best: Option<(f64, (f64, f64), Area)> = None;
        // The last part, then the first, then a few between: a long line does not ask for more than a short one.
        let last = line.len().saturating_sub(1);
        let between = (1..last).step_by(last.div_ceil(BETWEEN).max(1));
        let parts = [last, 0].into_iter().take(line.len()).chain(between);
        for (part, share) in parts.flat_map(|part| SHARES.map(|share| (part, share))) {
            let Some(curve) = line.get(part) else { continue };
            let (x, y) = at(curve, share);
            let y = y - LIFT;
            let area = Area(x - left, y - ABOVE, x + right, y + BELOW);
            let covered = self.covered(area);
            if best.as_ref().is_none_or(|(least, ..)| covered < *least) {
                best = Some((covered, (x, y), area));
            }
            if covered <= 0.0 {
                break;
            }
        }
        let Some((_, place, area)) = best else { return (0.0, 0.0) };
        self.take(area);
        place
    }
}

/// The columns that an area touches, and what of it lies in each.
fn columns(area: Area) -> impl Iterator<Item = (i64, Area)> {
    let of = |x: f64| (x / COLUMN).floor() as i64;
    (of(area.0)..=of(area.2)).map(move |column| {
        let left = column as f64 * COLUMN;
        (column, Area(area.0.max(left), area.1, area.2.min(left + COLUMN), area.3))
    })
}

/// A point of a curve.
fn at(curve: &Curve, share: f64) -> (f64, f64) {
    let rest = 1.0 - share;
    let weights = [rest * rest * rest, 3.0 * rest * rest * share, 3.0 * rest * share * share, share * share * share];
    let sum = |of: fn(&(f64, f64)) -> f64| -> f64 {
        curve.iter().zip(weights).map(|(point, weight)| of(point) * weight).sum()
    };
    (sum(|point| point.0), sum(|point| point.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn straight(height: f64) -> Curve {
        [(0.0, height), (80.0, height), (120.0, height), (200.0, height)]
    }

    #[test]
    fn labels_of_lines_that_meet_stand_beside_each_other() {
        let mut labels = Labels::among([Area(190.0, -20.0, 250.0, 20.0)]);
        let places: Vec<(f64, f64)> = (0..3).map(|_| labels.place(&[straight(0.0)], (10.0, 10.0))).collect();
        for (number, one) in places.iter().enumerate() {
            assert!(one.0 + 10.0 <= 190.0, "beside the box: {one:?}");
            assert!(places[..number].iter().all(|other| (one.0 - other.0).abs() >= 20.0), "{places:?}");
        }
    }

    #[test]
    fn where_all_is_taken_least_is_covered() {
        let mut labels = Labels::among([Area(0.0, -100.0, 300.0, 100.0), Area(60.0, -100.0, 300.0, 100.0)]);
        let place = labels.place(&[straight(0.0)], (5.0, 5.0));
        assert!(place.0 < 60.0, "{place:?}");
        assert_eq!(Labels::default().place(&[], (5.0, 5.0)), (0.0, 0.0));
    }

    #[test]
    fn what_lies_in_two_columns_counts_once() {
        let labels = Labels::among([Area(COLUMN - 10.0, 0.0, COLUMN + 10.0, 10.0)]);
        assert_eq!(labels.covered(Area(COLUMN - 30.0, 5.0, COLUMN + 5.0, 20.0)), 75.0);
        assert_eq!(labels.covered(Area(-30.0, 5.0, -5.0, 20.0)), 0.0);
    }

    #[test]
    fn long_lines_have_more_places() {
        let mut labels = Labels::among([Area(0.0, -100.0, 200.0, 10.0)]);
        let place = labels.place(&[straight(50.0), straight(0.0)], (5.0, 5.0));
        assert!(place.1 > 40.0, "{place:?}");
    }
}
