//! Random choices.

use fastrand::Rng;

/// One of `weighted`, with a probability in proportion to its weight.
pub fn one_of<'w, T: Copy + 'w>(rng: &mut Rng, weighted: impl Iterator<Item = &'w (u32, T)> + Clone) -> T {
    let all: u32 = weighted.clone().map(|(weight, _)| weight).sum();
    let mut left = rng.u32(..all);
    for &(weight, choice) in weighted {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return choice,
        }
    }
    unreachable!("it is less than the sum of the weights")
}
