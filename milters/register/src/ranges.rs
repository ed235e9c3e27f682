//! Sets of row numbers, as PostgreSQL's `int8multirange` has them.
//!
//! Ours: the text is PostgreSQL's, and the rest a few passes over sorted pairs.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Ranges in order, apart from each other, each with its first number and the one after its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(i64, i64)>);

impl Ranges {
    /// The numbers from `first` up to, without, `end`.
    pub fn of(first: i64, end: i64) -> Self {
        Self(if first < end { vec![(first, end)] } else { Vec::new() })
    }

    /// Numbers in any order; none twice.
    pub fn from_numbers(mut numbers: Vec<i64>) -> Self {
        numbers.sort_unstable();
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, end)) if *end == number => *end += 1,
                _ => ranges.push((number, number + 1)),
            }
        }
        Self(ranges)
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |count, (first, end)| end.abs_diff(*first).saturating_add(count))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges: first, and the one after the last.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.0.iter().copied()
    }

    /// The numbers, in order.
    pub fn numbers(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().flat_map(|(first, end)| *first..*end)
    }

    /// At which place `number` stands, counted from 0.
    pub fn place(&self, number: i64) -> Option<u64> {
        let mut before = 0;
        for (first, end) in self.iter() {
            if number < first {
                return None;
            }
            if number < end {
                return Some(before + number.abs_diff(first));
            }
            before += end.abs_diff(first);
        }
        None
    }

    /// These and those of `other`.
    pub fn with(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for (first, end) in all {
            match ranges.last_mut() {
                Some((_, last)) if *last >= first => *last = end.max(*last),
                _ => ranges.push((first, end)),
            }
        }
        Self(ranges)
    }

    /// These without those of `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut others = other.0.iter().copied().peekable();
        for (mut first, end) in self.iter() {
            while let Some(&(from, to)) = others.peek() {
                if from >= end {
                    break;
                }
                if to > first {
                    if from > first {
                        left.push((first, from));
                    }
                    first = first.max(to);
                }
                if to > end {
                    break;
                }
                others.next();
            }
            if first < end {
                left.push((first, end));
            }
        }
        Self(left)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = self.0.iter().fold(String::new(), |mut text, (first, end)| {
            let _ = write!(text, "{}[{first},{end})", if text.is_empty() { "" } else { "," });
            text
        });
        write!(f, "{{{inside}}}")
    }
}

/// It is no multirange of whole numbers.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no set of row numbers")]
pub struct RangesError(String);

impl FromStr for Ranges {
    type Err = RangesError;

    fn from_str(text: &str) -> Result<Self, RangesError> {
        let error = || RangesError(text.to_owned());
        let inside = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(error)?;
        if inside.is_empty() {
            return Ok(Self::default());
        }
        let ranges = inside.split("),").map(|range| {
            let (first, end) = range.strip_prefix('[')?.trim_end_matches(')').split_once(',')?;
            Some((first.parse().ok()?, end.parse().ok()?))
        });
        Ok(Self(ranges.collect::<Option<_>>().ok_or_else(error)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_sets_of_numbers(a in prop::collection::btree_set(0_i64..40, 0..30), b in prop::collection::btree_set(0_i64..40, 0..30)) {
            let of = |set: &BTreeSet<i64>| Ranges::from_numbers(set.iter().copied().collect());
            let (x, y) = (of(&a), of(&b));
            prop_assert_eq!(x.with(&y), of(&a.union(&b).copied().collect()));
            prop_assert_eq!(x.without(&y), of(&a.difference(&b).copied().collect()));
            prop_assert_eq!(x.to_string().parse::<Ranges>().unwrap(), x.clone());
            prop_assert_eq!(x.count(), u64::try_from(a.len()).unwrap());
            for number in 0..40 {
                prop_assert_eq!(x.place(number), a.iter().position(|n| *n == number).map(|p| u64::try_from(p).unwrap()));
            }
            prop_assert_eq!(x.numbers().collect::<Vec<_>>(), a.into_iter().collect::<Vec<_>>());
        }
    }
}
