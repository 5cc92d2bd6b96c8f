//! The query parameters that are part of a key. Signatures and times in other parameters would make each client's
//! request an object of its own. Pure.

/// Query parameters that are part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QuerySelection {
    /// The whole query, as sent.
    #[default]
    All,
    /// These parameters, in this order; none if empty.
    Only(Vec<String>),
}

impl QuerySelection {
    /// Returns the selected part of a query; `None` if nothing is selected.
    pub fn select(&self, query: &str) -> Option<String> {
        let Self::Only(names) = self else { return Some(query.to_owned()) };
        let named = |name| query.split('&').filter(move |pair| parameter_name(pair) == name);
        let selected: Vec<&str> = names.iter().flat_map(|name| named(name.as_str())).collect();
        (!selected.is_empty()).then(|| selected.join("&"))
    }
}

fn parameter_name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_selected_parameters_in_the_order_of_the_rule() {
        let only = |names: &[&str]| QuerySelection::Only(names.iter().map(|&name| name.to_owned()).collect());
        for (selection, query, expected) in [
            (QuerySelection::All, "b=2&a=1", Some("b=2&a=1")),
            (only(&[]), "b=2&a=1", None),
            (only(&["a", "b"]), "b=2&a=1&c=3", Some("a=1&b=2")),
            (only(&["a"]), "a=1&a=2&aa=3&A=4", Some("a=1&a=2")),
            (only(&["a"]), "a&b", Some("a")),
            (only(&["a"]), "b=a", None),
            (only(&["a"]), "", None),
        ] {
            assert_eq!(selection.select(query).as_deref(), expected, "{selection:?} {query}");
        }
    }
}
