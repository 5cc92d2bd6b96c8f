//! The identity of a group over reloads: its name. Clients of a group that is renamed are clients of another group.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Identity of a group, in policies, rollouts, logs and metrics. Cheap to clone; derefs to the group's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(Arc<str>);

impl Deref for GroupId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

// An id hashes and compares as its name, so that maps can be asked by name.
impl Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for GroupId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for GroupId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for GroupId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Honours a width: tables align names.
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_name_is_padded_to_the_width_of_a_column() {
        assert_eq!(
            format!("{:<8}|{}", GroupId::from("pilot".to_owned()), GroupId::from("all".to_owned())),
            "pilot   |all"
        );
    }
}
