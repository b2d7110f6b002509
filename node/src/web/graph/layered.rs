//! Places the vertices of a directed graph in layers from left to right, after Sugiyama: cycles are cut, layers are longest paths, long
//! edges get places of their own in the layers between, and each layer is ordered by where its neighbours are. Pure and
//! deterministic.

/// Sweeps over all layers that order them.
const SWEEPS: usize = 12;
/// Sweeps that move what is ordered towards its neighbours.
const SETTLING: usize = 8;

/// Where everything is. Heights are in rows: a vertex takes one, the place of a passing edge less.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    /// Layer and height of each vertex, in the order given.
    pub(super) vertices: Vec<(usize, f64)>,
    /// Layers and heights that each edge passes, from its beginning to its end, both included. Empty for a loop.
    pub(super) edges: Vec<Vec<(usize, f64)>>,
    /// How many layers there are.
    pub(super) layers: usize,
    /// The greatest height.
    pub(super) height: f64,
}

/// The place that a passing edge takes, in rows.
const PASSING: f64 = 0.4;

/// A graph whose long edges are parted.
struct Parted {
    layer: Vec<usize>,
    /// The places in each layer, in order.
    rows: Vec<Vec<usize>>,
    /// Neighbours in the layer before and in the one after.
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
    /// Places of each edge, in the direction of layers.
    chains: Vec<Vec<usize>>,
    /// How many of the places are vertices.
    vertices: usize,
}

/// Lays out `count` vertices with these edges.
pub(super) fn layout(count: usize, edges: &[(usize, usize)]) -> Layout {
    let forward = forward(count, edges);
    let layer = layers(count, &forward);
    let mut parted = Parted::new(layer, &forward);
    parted.order();
    let heights = parted.heights();
    let place = |at: usize| (parted.layer[at], heights[at]);
    let along = |chain: &Vec<usize>, turned: bool| {
        let mut places: Vec<_> = chain.iter().map(|at| place(*at)).collect();
        if turned {
            places.reverse();
        }
        places
    };
    Layout {
        vertices: (0..count).map(place).collect(),
        edges: parted.chains.iter().zip(&forward).map(|(chain, edge)| along(chain, edge.turned)).collect(),
        layers: parted.rows.len(),
        height: heights.iter().copied().fold(0.0, f64::max),
    }
}

/// An edge that leads to a later layer; `None` ends for a loop.
struct Forward {
    ends: Option<(usize, usize)>,
    turned: bool,
}

/// Turns the edges that close a cycle.
fn forward(count: usize, edges: &[(usize, usize)]) -> Vec<Forward> {
    let mut next = vec![Vec::new(); count];
    let mut called = vec![false; count];
    for (number, (from, to)) in edges.iter().enumerate() {
        next[*from].push((*to, number));
        called[*to] |= from != to;
    }
    let mut turned = vec![false; edges.len()];
    // 0: not yet seen, 1: on the way, 2: done.
    let mut seen = vec![0_u8; count];
    // Who is called by nobody comes first, so that callers stand at the left.
    let starts = (0..count).filter(|at| !called[*at]).chain((0..count).filter(|at| called[*at]));
    for start in starts {
        if seen[start] > 0 {
            continue;
        }
        let mut way = vec![(start, 0)];
        seen[start] = 1;
        while let Some((at, at_edge)) = way.last_mut() {
            let Some((to, number)) = next[*at].get(*at_edge).copied() else {
                seen[*at] = 2;
                way.pop();
                continue;
            };
            *at_edge += 1;
            match seen[to] {
                0 => {
                    seen[to] = 1;
                    way.push((to, 0));
                }
                1 => turned[number] = true,
                _ => {}
            }
        }
    }
    let forward = edges.iter().zip(turned).map(|(&(from, to), turned)| {
        let ends = (from != to).then_some(if turned { (to, from) } else { (from, to) });
        Forward { ends, turned: turned && from != to }
    });
    forward.collect()
}

/// The longest path to each vertex.
fn layers(count: usize, edges: &[Forward]) -> Vec<usize> {
    let (mut layer, mut open, mut next) = (vec![0; count], vec![0_usize; count], vec![Vec::new(); count]);
    for (from, to) in edges.iter().filter_map(|edge| edge.ends) {
        next[from].push(to);
        open[to] += 1;
    }
    let mut ready: Vec<usize> = (0..count).filter(|at| open[*at] == 0).collect();
    while let Some(at) = ready.pop() {
        for to in &next[at] {
            layer[*to] = layer[*to].max(layer[at] + 1);
            open[*to] -= 1;
            if open[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    layer
}

impl Parted {
    fn new(mut layer: Vec<usize>, edges: &[Forward]) -> Self {
        let vertices = layer.len();
        let mut chains = Vec::with_capacity(edges.len());
        for edge in edges {
            let Some((from, to)) = edge.ends else {
                chains.push(Vec::new());
                continue;
            };
            let mut chain = vec![from];
            for between in layer[from] + 1..layer[to] {
                chain.push(layer.len());
                layer.push(between);
            }
            chain.push(to);
            chains.push(chain);
        }
        let (mut before, mut after) = (vec![Vec::new(); layer.len()], vec![Vec::new(); layer.len()]);
        for pair in chains.iter().flat_map(|chain| chain.windows(2)) {
            after[pair[0]].push(pair[1]);
            before[pair[1]].push(pair[0]);
        }
        let mut rows = vec![Vec::new(); layer.iter().max().map_or(0, |last| last + 1)];
        layer.iter().enumerate().for_each(|(at, layer)| rows[*layer].push(at));
        Self { layer, rows, before, after, chains, vertices }
    }

    /// Orders each layer by the mean place of its neighbours, forth and back.
    fn order(&mut self) {
        let mut place = vec![0.0; self.layer.len()];
        let note = |row: &[usize], place: &mut [f64]| {
            row.iter().enumerate().for_each(|(number, at)| place[*at] = number as f64);
        };
        self.rows.iter().for_each(|row| note(row, &mut place));
        for sweep in 0..SWEEPS {
            let forth = sweep % 2 == 0;
            let neighbours = if forth { &self.before } else { &self.after };
            let count = self.rows.len();
            for number in 0..count {
                let row = &mut self.rows[if forth { number } else { count - 1 - number }];
                let wanted = |at: &usize| mean(&neighbours[*at], &place).unwrap_or(place[*at]);
                let mut sorted: Vec<(f64, usize)> = row.iter().map(|at| (wanted(at), *at)).collect();
                // What is equal stays as it was.
                sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
                *row = sorted.into_iter().map(|(_, at)| at).collect();
                note(row, &mut place);
            }
        }
    }

    /// Moves each place towards its neighbours, as far as the order and its own room let it.
    fn heights(&self) -> Vec<f64> {
        let room = |at: usize| if at < self.vertices { 1.0 } else { PASSING };
        let gap = |a: usize, b: usize| (room(a) + room(b)) / 2.0;
        let mut height = vec![0.0; self.layer.len()];
        for row in &self.rows {
            for pair in row.windows(2) {
                height[pair[1]] = height[pair[0]] + gap(pair[0], pair[1]);
            }
        }
        for _ in 0..SETTLING {
            for row in &self.rows {
                let all = |at: &usize| {
                    let both = [self.before[*at].as_slice(), self.after[*at].as_slice()].concat();
                    mean(&both, &height).unwrap_or(height[*at])
                };
                let wanted: Vec<f64> = row.iter().map(all).collect();
                settle(row, &wanted, &gap, &mut height);
            }
        }
        let least = height.iter().copied().fold(f64::INFINITY, f64::min);
        height.iter_mut().for_each(|height| *height -= least);
        height
    }
}

/// Gives a row the heights that it wants, pushing what would overlap: half way between pushing down and pushing up, which keeps the room
/// as both do.
fn settle(row: &[usize], wanted: &[f64], gap: &impl Fn(usize, usize) -> f64, height: &mut [f64]) {
    let (mut down, mut up) = (wanted.to_vec(), wanted.to_vec());
    for at in 1..row.len() {
        down[at] = down[at].max(down[at - 1] + gap(row[at - 1], row[at]));
    }
    for at in (1..row.len()).rev() {
        up[at - 1] = up[at - 1].min(up[at] - gap(row[at - 1], row[at]));
    }
    for (number, at) in row.iter().enumerate() {
        height[*at] = f64::midpoint(down[number], up[number]);
    }
}

fn mean(of: &[usize], place: &[f64]) -> Option<f64> {
    (!of.is_empty()).then(|| of.iter().map(|at| place[*at]).sum::<f64>() / of.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bookinfo_stands_from_left_to_right() {
        // productpage -> details, reviews; reviews -> ratings
        let layout = layout(4, &[(0, 1), (0, 2), (2, 3)]);
        let layers: Vec<usize> = layout.vertices.iter().map(|vertex| vertex.0).collect();
        assert_eq!((layers, layout.layers), (vec![0, 1, 1, 2], 3));
    }

    #[test]
    fn a_cycle_is_cut_and_its_edge_leads_back() {
        let layout = layout(3, &[(0, 1), (1, 2), (2, 0), (1, 1)]);
        assert_eq!(layout.layers, 3);
        let back: Vec<usize> = layout.edges[2].iter().map(|place| place.0).collect();
        assert_eq!(back, [2, 1, 0]);
        assert!(layout.edges[3].is_empty(), "a loop leads nowhere");
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_edges_join_their_vertices(
            count in 1_usize..30, pairs in proptest::collection::vec((0_usize..30, 0_usize..30), 0..80),
        ) {
            let edges: Vec<_> = pairs.into_iter().map(|(from, to)| (from % count, to % count)).collect();
            let layout = layout(count, &edges);
            for (a, first) in layout.vertices.iter().enumerate() {
                for second in &layout.vertices[a + 1..] {
                    prop_assert!(first.0 != second.0 || (first.1 - second.1).abs() > 0.99, "{:?}", layout.vertices);
                }
            }
            for ((from, to), places) in edges.iter().zip(&layout.edges).filter(|((from, to), _)| from != to) {
                prop_assert_eq!(places.first(), Some(&layout.vertices[*from]));
                prop_assert_eq!(places.last(), Some(&layout.vertices[*to]));
                prop_assert!(places.windows(2).all(|pair| pair[0].0.abs_diff(pair[1].0) == 1));
            }
            prop_assert!(layout.vertices.iter().all(|vertex| vertex.1 >= 0.0 && vertex.1 <= layout.height));
        }
    }
}
