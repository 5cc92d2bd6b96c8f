//! Problems of a configuration: location, setting, and a message that says what to do. Each problem is one line, and
//! all are reported together, so that an administrator corrects a file in one pass.

use std::fmt::{self, Write};
use std::sync::Arc;

/// Location of a setting. Ordered as problems are listed.
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

/// One problem or warning. Shows as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Location of the setting; `None` if it is missing everywhere.
    pub location: Option<Location>,
    /// The setting, such as `store.quota`; `None` if the problem is not about one setting.
    pub key: Option<String>,
    /// Description of the problem and its correction.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if let Some(location) = &self.location {
            write!(line, "{location}: ")?;
        }
        // A flag names its setting already.
        if let (Some(key), false) = (&self.key, matches!(self.location, Some(Location::Flag(_)))) {
            write!(line, "{key}: ")?;
        }
        line.push_str(&self.message);
        // Keys and values may hold line feeds or terminal escapes; a problem stays one line of text.
        line.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))
    }
}

/// All problems of a configuration, by location. Never empty. Shows one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Returns `Ok` if there are no problems.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        problems.sort();
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// Returns the problems, with this location for those that have none.
    pub(crate) fn with_location(mut self, location: &Location) -> Self {
        for problem in &mut self.0 {
            problem.location.get_or_insert_with(|| location.clone());
        }
        self.0.sort();
        self
    }

    /// Returns the problems, by location.
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
