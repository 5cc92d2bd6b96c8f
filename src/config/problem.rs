//! What is wrong with a configuration: where it was said, which setting it is, what to do. One line a problem, and
//! all of them at once, so that an administrator mends a file in one go.

use std::fmt::{self, Write};
use std::sync::Arc;

/// Where a setting was given. Ordered as problems are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A flag on the command line, such as `--listen`.
    Flag(&'static str),
    /// An environment variable, such as `GUPD_STORE_QUOTA`.
    Environment(String),
    /// A line of a file, from 1; `None` for the file as a whole.
    File(Arc<str>, Option<usize>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(path, Some(line)) => write!(f, "{path}:{line}"),
            Self::File(path, None) => f.write_str(path),
        }
    }
}

/// One thing to mend. Shows as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it was said; `None` for what is missing everywhere.
    pub place: Option<Location>,
    /// The setting, such as `store.quota`; `None` where it is not one setting.
    pub key: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if let Some(place) = &self.place {
            write!(line, "{place}: ")?;
        }
        // A flag names its setting already.
        if let (Some(key), false) = (&self.key, matches!(self.place, Some(Location::Flag(_)))) {
            write!(line, "{key}: ")?;
        }
        line.push_str(&self.message);
        // Keys and values may hold line feeds or terminal escapes; a problem stays one line of text.
        line.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))
    }
}

/// Every problem of a configuration, by place. Never empty. Shows one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Ok` if there are none.
    pub(super) fn none(mut problems: Vec<Problem>) -> Result<(), Self> {
        problems.sort();
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// The problems, by place.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
