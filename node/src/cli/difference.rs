//! How two texts differ, line by line, as `diff -u` shows it.

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared at most; beyond that all lines between the common ends count as changed.
const COMPARED: usize = 16 << 20;

/// What becomes of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'t> {
    Keep(&'t str),
    Drop(&'t str),
    Add(&'t str),
}

/// The unified difference with these names in its head; empty if there is none.
pub(crate) fn unified(names: (&str, &str), before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let steps = steps(&old, &new);
    let changed: Vec<usize> =
        steps.iter().enumerate().filter(|(_, step)| !matches!(step, Step::Keep(_))).map(|(at, _)| at).collect();
    if changed.is_empty() {
        return String::new();
    }
    let mut text = format!("--- {}\n+++ {}\n", names.0, names.1);
    let mut begin = 0;
    while begin < changed.len() {
        // Changes with little between them are shown together.
        let mut end = begin;
        while end + 1 < changed.len() && changed[end + 1] - changed[end] <= 2 * CONTEXT {
            end += 1;
        }
        let from = changed[begin].saturating_sub(CONTEXT);
        let to = (changed[end] + CONTEXT + 1).min(steps.len());
        hunk(&steps, from, to, &mut text);
        begin = end + 1;
    }
    text
}

fn hunk(steps: &[Step<'_>], from: usize, to: usize, text: &mut String) {
    let count = |steps: &[Step<'_>], old: bool| {
        let counts = |step: &&Step<'_>| match step {
            Step::Keep(_) => true,
            Step::Drop(_) => old,
            Step::Add(_) => !old,
        };
        steps.iter().filter(counts).count()
    };
    let range = |old: bool| {
        let length = count(&steps[from..to], old);
        // An empty range names the line before it.
        let first = count(&steps[..from], old) + usize::from(length > 0);
        format!("{first},{length}")
    };
    text.push_str(&format!("@@ -{} +{} @@\n", range(true), range(false)));
    for step in &steps[from..to] {
        let (sign, line) = match step {
            Step::Keep(line) => (' ', line),
            Step::Drop(line) => ('-', line),
            Step::Add(line) => ('+', line),
        };
        text.push(sign);
        text.push_str(line);
        text.push('\n');
    }
}

/// The way from one list of lines to the other, by their longest common subsequence.
fn steps<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Step<'t>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle_old, middle_new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut steps: Vec<Step<'t>> = old[..head].iter().map(|line| Step::Keep(line)).collect();
    if middle_old.len().saturating_mul(middle_new.len()) > COMPARED {
        steps.extend(middle_old.iter().map(|line| Step::Drop(line)));
        steps.extend(middle_new.iter().map(|line| Step::Add(line)));
    } else {
        common(middle_old, middle_new, &mut steps);
    }
    steps.extend(old[old.len() - tail..].iter().map(|line| Step::Keep(line)));
    steps
}

fn common<'t>(old: &[&'t str], new: &[&'t str], steps: &mut Vec<Step<'t>>) {
    // The length of the longest common subsequence of what follows each pair of places.
    let width = new.len() + 1;
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            steps.push(Step::Keep(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            steps.push(Step::Drop(old[i]));
            i += 1;
        } else {
            steps.push(Step::Add(new[j]));
            j += 1;
        }
    }
    steps.extend(old[i..].iter().map(|line| Step::Drop(line)));
    steps.extend(new[j..].iter().map(|line| Step::Add(line)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\n";
        let after = before.replace("b\n", "B\n").replace("l\n", "l\nl2\n");
        let shown = unified(("old", "new"), before, &after);
        let wanted =
            "--- old\n+++ new\n@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n@@ -10,4 +10,5 @@\n j\n k\n l\n+l2\n m\n";
        assert_eq!(shown, wanted);
        assert_eq!(unified(("old", "new"), before, before), "");
        assert_eq!(unified(("/dev/null", "new"), "", "a\nb\n"), "--- /dev/null\n+++ new\n@@ -0,0 +1,2 @@\n+a\n+b\n");
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_one_to_the_other(
            old in proptest::collection::vec("[ab]", 0..12), new in proptest::collection::vec("[ab]", 0..12),
        ) {
            let (old, new): (Vec<&str>, Vec<&str>) =
                (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
            let steps = steps(&old, &new);
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Keep(line) => {
                        left.push(line);
                        right.push(line);
                    }
                    Step::Drop(line) => left.push(line),
                    Step::Add(line) => right.push(line),
                }
            }
            prop_assert_eq!((left, right), (old, new));
        }
    }
}
