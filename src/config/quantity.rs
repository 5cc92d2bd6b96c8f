//! A number with its noun, for people: `1 object`, `2 objects`, `12,000 clients`. Every text that counts things takes its
//! plural from here, so that no output has `1 objects`. Nouns of the plain English plurals only: `-s`, and `-ies` for a
//! `y` after a consonant.

use std::fmt::{self, Display, Formatter};

/// A number and its noun in the singular. A number above 2^64 − 1 or below 0 is shown as the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity<'a, N>(pub N, pub &'a str);

impl<N: Copy + TryInto<u64>> Quantity<'_, N> {
    /// Returns the text with a verb that agrees: `1 client is`, `2 clients are`.
    pub fn with_verb(self, singular: &str, plural: &str) -> String {
        format!("{self} {}", if self.number() == 1 { singular } else { plural })
    }

    fn number(self) -> u64 {
        self.0.try_into().unwrap_or(u64::MAX)
    }
}

impl<N: Copy + TryInto<u64>> Display for Quantity<'_, N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = self.number();
        let digits = number.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && digits.len().saturating_sub(at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        let noun = self.1;
        match noun.strip_suffix('y') {
            _ if number == 1 => write!(f, " {noun}"),
            Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => write!(f, " {stem}ies"),
            _ => write!(f, " {noun}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noun_is_singular_for_one_alone() {
        let texts = [0_u64, 1, 2, 999, 1_000, 1_234_567].map(|number| Quantity(number, "object").to_string());
        assert_eq!(
            texts,
            ["0 objects", "1 object", "2 objects", "999 objects", "1,000 objects", "1,234,567 objects"]
        );
        assert_eq!(
            [1_usize, 2].map(|number| Quantity(number, "entry").to_string()),
            ["1 entry", "2 entries"]
        );
        assert_eq!(Quantity(2_u32, "day").to_string(), "2 days");
        assert_eq!(
            [1_u64, 2].map(|number| Quantity(number, "client").with_verb("is", "are")),
            ["1 client is", "2 clients are"]
        );
    }
}
