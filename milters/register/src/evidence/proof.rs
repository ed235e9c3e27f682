//! An inclusion proof (RFC 6962 s. 2.1.1) as text that `sh` can walk: a line for each hash, with the side on
//! which it stands.
//!
//! Ours: the crate tlog_tiles checks a proof, and does not say on which side a hash stands.

use pec_core::identifier::hex;
use tlog_tiles::{Hash, node_hash};

/// The text of the proof that leaf number `number` is in the tree of `size` leaves, and the root that it
/// leads to from `leaf`.
pub(crate) fn render(number: u64, size: u64, leaf: Hash, path: &[Hash]) -> (String, Hash) {
    let mut text = format!("leaf {number} of {size}\n");
    let (mut place, mut last) = (number, size.saturating_sub(1));
    let mut root = leaf;
    for hash in path {
        let stands_left = place & 1 == 1 || place == last;
        if stands_left {
            root = node_hash(*hash, root);
            // A subtree without a brother goes up until it has one.
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(root, *hash);
        }
        text += &format!("{} {}\n", if stands_left { "left" } else { "right" }, hex(&hash.0));
        place >>= 1;
        last >>= 1;
    }
    (text, root)
}

/// The numbers of a text: leaf and size, and the hashes.
pub(crate) fn read(text: &str) -> Option<(u64, u64, Vec<Hash>)> {
    let mut lines = text.lines();
    let (number, size) = lines.next()?.strip_prefix("leaf ")?.split_once(" of ")?;
    let hash = |line: &str| {
        let (_, value) = line.split_once(' ')?;
        Some(Hash(pec_core::identifier::unhex(value)?.try_into().ok()?))
    };
    Some((number.parse().ok()?, size.parse().ok()?, lines.map(hash).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::leaf;

    /// The tree as RFC 6962 s. 2.1 defines it: split at the largest power of two below its size.
    fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [one] => *one,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(root(&leaves[..split]), root(&leaves[split..]))
            }
        }
    }

    fn path(number: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        if number < split {
            [path(number, left), vec![root(right)]].concat()
        } else {
            [path(number - split, right), vec![root(left)]].concat()
        }
    }

    #[test]
    fn rfc6962_2_1_1_the_sides_lead_to_the_root_in_trees_of_every_shape() {
        let leaves: Vec<Hash> = (0..70_u8).map(|n| leaf(&[n; 32])).collect();
        for size in 1..=leaves.len() {
            for number in 0..size {
                let path = path(number, &leaves[..size]);
                let (text, found) = render(number as u64, size as u64, leaves[number], &path);
                assert_eq!(found, root(&leaves[..size]), "leaf {number} of {size}");
                assert_eq!(read(&text), Some((number as u64, size as u64, path)));
            }
        }
    }
}
