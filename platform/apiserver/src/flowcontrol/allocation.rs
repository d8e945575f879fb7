//! How the server's seats are divided anew among the priority levels (`apiserver/pkg/util/flowcontrol/conc_alloc.go`).

/// What a level needs, and what it may have at least and at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Item {
    pub(super) lower: f64,
    pub(super) upper: f64,
    pub(super) target: f64,
}

/// A smaller target counts as this.
const MIN_TARGET: f64 = 0.001;
const EPSILON: f64 = 1e-7;

impl Item {
    fn target(&self) -> f64 {
        self.target.max(MIN_TARGET)
    }

    fn at(&self, proportion: f64) -> f64 {
        (proportion * self.target()).clamp(self.lower, self.upper)
    }
}

/// Divides `sum`: everyone gets the same proportion of its target, as far as its bounds allow. The shares, and the
/// proportion. `None` if the bounds don't allow it at all.
pub(super) fn divide(sum: f64, items: &[Item]) -> Option<(Vec<f64>, f64)> {
    let total = |of: fn(&Item) -> f64| items.iter().map(of).sum::<f64>();
    let sensible = items.iter().all(|item| 0.0 <= item.lower && item.lower <= item.upper);
    if items.is_empty() || !sensible || total(|item| item.lower) > sum + EPSILON || total(|item| item.upper) < sum - EPSILON {
        return None;
    }
    let given = |proportion: f64| items.iter().map(|item| item.at(proportion)).sum::<f64>();
    // What is given grows with the proportion, in straight lines between those at which somebody reaches a bound.
    let mut bends: Vec<f64> = items.iter().flat_map(|item| [item.lower / item.target(), item.upper / item.target()]).collect();
    bends.sort_by(f64::total_cmp);
    let (mut low, mut proportion) = (0.0, bends.last().copied().unwrap_or_default());
    for high in bends {
        let (less, more) = (given(low), given(high));
        if more >= sum {
            proportion = if more > less { low + (high - low) * (sum - less).max(0.0) / (more - less) } else { high };
            break;
        }
        low = high;
    }
    Some((items.iter().map(|item| item.at(proportion)).collect(), proportion))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is divided, among whom, and the shares.
    type Case<'a> = (f64, &'a [Item], Option<&'a [f64]>);

    #[test]
    fn everyone_gets_the_same_part_of_what_it_wants() {
        let item = |lower, upper, target| Item { lower, upper, target };
        let table: &[Case<'_>] = &[
            (30.0, &[item(0.0, 100.0, 10.0), item(0.0, 100.0, 20.0)], Some(&[10.0, 20.0])),
            // More than is wanted is there: it is divided too.
            (60.0, &[item(0.0, 100.0, 10.0), item(0.0, 100.0, 20.0)], Some(&[20.0, 40.0])),
            // One cannot take its part, the other gets the rest.
            (60.0, &[item(0.0, 15.0, 10.0), item(0.0, 100.0, 20.0)], Some(&[15.0, 45.0])),
            // One must have more than its part.
            (30.0, &[item(20.0, 100.0, 20.0), item(0.0, 100.0, 40.0)], Some(&[20.0, 10.0])),
            // Nobody wants anything: what they must have, and the rest in equal parts.
            (30.0, &[item(0.0, 100.0, 0.0), item(0.0, 100.0, 0.0)], Some(&[15.0, 15.0])),
            (30.0, &[item(10.0, 10.0, 10.0), item(20.0, 20.0, 20.0)], Some(&[10.0, 20.0])),
            (5.0, &[item(10.0, 20.0, 10.0)], None),
            (25.0, &[item(10.0, 20.0, 10.0)], None),
            (1.0, &[], None),
        ];
        for (sum, items, want) in table {
            let shares = divide(*sum, items).map(|(shares, _)| shares);
            let close = match (&shares, want) {
                (Some(shares), Some(want)) => shares.iter().zip(*want).all(|(share, want)| (share - want).abs() < 1e-6),
                (shares, want) => shares.is_none() && want.is_none(),
            };
            assert!(close, "{items:?}: {shares:?}, not {want:?}");
        }
    }
}
