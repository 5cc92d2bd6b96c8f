//! Requests that a route passes to its upstreams: methods by class of path. An upstream takes every request for the
//! relay's own, so consoles and methods that change something are closed by default. A route's list replaces that of
//! its profile; a class that the list does not name is closed.

use http::Method;

use crate::content::{CLASSES, Class};
use crate::document::Section;
use crate::reader::choice;

/// Maximum number of methods of one class; WebDAV has 30.
const MAX_METHODS: usize = 40;

/// Methods by class of path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRules {
    payload: PassedMethods,
    catalog: PassedMethods,
    private: PassedMethods,
    generic: PassedMethods,
}

/// Methods that pass for one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum PassedMethods {
    /// The class is closed.
    #[default]
    None,
    Listed(Vec<Method>),
    All,
}

/// Reason why a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedTo {
    /// Every method.
    Path,
    /// This method.
    Method,
}

impl PassRules {
    /// Passes every method of every class.
    pub fn all() -> Self {
        Self::uniform(&PassedMethods::All)
    }

    fn uniform(methods: &PassedMethods) -> Self {
        let [payload, catalog, private, generic] = std::array::from_fn(|_| methods.clone());
        Self { payload, catalog, private, generic }
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// The reason why it does not pass.
    pub fn check(&self, class: Class, method: &Method) -> Result<(), ClosedTo> {
        match self.methods(class) {
            PassedMethods::None => Err(ClosedTo::Path),
            methods if methods.contains(method) => Ok(()),
            _ => Err(ClosedTo::Method),
        }
    }

    /// Returns true if the method passes for paths of every class.
    pub fn passes_every_class(&self, method: &Method) -> bool {
        let Self { payload, catalog, private, generic } = self;
        [payload, catalog, private, generic].iter().all(|methods| methods.contains(method))
    }

    /// Returns the listed methods of a class, for the field `Allow`; `None` if every method or none passes.
    pub fn allowed(&self, class: Class) -> Option<String> {
        let PassedMethods::Listed(methods) = self.methods(class) else { return None };
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        Some(names.join(", "))
    }

    fn methods(&self, class: Class) -> &PassedMethods {
        match class {
            Class::Payload => &self.payload,
            Class::Catalog => &self.catalog,
            Class::Private => &self.private,
            Class::Generic => &self.generic,
        }
    }

    fn methods_mut(&mut self, class: Class) -> &mut PassedMethods {
        match class {
            Class::Payload => &mut self.payload,
            Class::Catalog => &mut self.catalog,
            Class::Private => &mut self.private,
            Class::Generic => &mut self.generic,
        }
    }
}

impl Default for PassRules {
    /// Downloads, and the reports of clients to their managers.
    fn default() -> Self {
        let downloads = PassedMethods::Listed(vec![Method::GET, Method::HEAD]);
        let reports = PassedMethods::Listed(vec![Method::GET, Method::HEAD, Method::POST]);
        Self { private: reports, ..Self::uniform(&downloads) }
    }
}

impl PassedMethods {
    fn contains(&self, method: &Method) -> bool {
        match self {
            Self::None => false,
            Self::Listed(methods) => methods.contains(method),
            Self::All => true,
        }
    }
}

/// Reads `pass` of a route or profile.
pub(crate) fn read_pass(s: &mut Section) -> Option<PassRules> {
    let mut rules = PassRules::uniform(&PassedMethods::None);
    s.read_list("pass", |text| {
        let (class, methods) = line(text)?;
        let own = rules.methods_mut(class);
        if *own != PassedMethods::None {
            return Err(format!("{} is listed twice: write its methods on one line", class.as_str()));
        }
        *own = methods;
        Ok(())
    })?;
    Some(rules)
}

/// Reads a class and its methods.
fn line(text: &str) -> Result<(Class, PassedMethods), String> {
    let mut words = text.split_ascii_whitespace();
    let class = choice(words.next().unwrap_or_default(), &CLASSES)?;
    let names: Vec<&str> = words.collect();
    if names == ["*"] {
        return Ok((class, PassedMethods::All));
    }
    if names.is_empty() || names.len() > MAX_METHODS {
        return Err(format!("{text:?} has no methods: write it like \"{} GET POST\"", class.as_str()));
    }
    let mut methods: Vec<Method> = Vec::with_capacity(names.len().saturating_add(1));
    for name in names {
        let method = method(name)?;
        // RFC 9110 §9.3.2: the head of the same response.
        let with_head = (method == Method::GET).then_some(Method::HEAD);
        for method in [method].into_iter().chain(with_head) {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
    }
    Ok((class, PassedMethods::Listed(methods)))
}

fn method(name: &str) -> Result<Method, String> {
    if !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(format!("{name:?} is not a method: write it in capitals, like GET, or * for all"));
    }
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => Err(format!("{name} never passes: remove it")),
        Ok(method) => Ok(method),
        Err(_) => Err(format!("{name:?} is not a method: write it like GET")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> PassRules {
        let mut rules = PassRules::uniform(&PassedMethods::None);
        for text in lines {
            let (class, methods) = line(text).unwrap();
            *rules.methods_mut(class) = methods;
        }
        rules
    }

    #[test]
    fn only_listed_methods_of_listed_classes_pass() {
        let rules = rules(&["payload GET", "private POST PROPFIND", "catalog *"]);
        for (class, method, expected) in [
            (Class::Payload, "GET", Ok(())),
            (Class::Payload, "HEAD", Ok(())),
            (Class::Payload, "POST", Err(ClosedTo::Method)),
            (Class::Private, "GET", Err(ClosedTo::Method)),
            (Class::Private, "PROPFIND", Ok(())),
            (Class::Catalog, "ANYTHING", Ok(())),
            (Class::Generic, "GET", Err(ClosedTo::Path)),
        ] {
            assert_eq!(rules.check(class, &method.parse().unwrap()), expected, "{class:?} {method}");
        }
        assert_eq!(rules.allowed(Class::Payload).as_deref(), Some("GET, HEAD"));
        assert_eq!(rules.allowed(Class::Catalog), None);
        assert!(!rules.passes_every_class(&Method::GET));
    }

    #[test]
    fn default_passes_downloads_and_reports() {
        let rules = PassRules::default();
        assert!(rules.passes_every_class(&Method::GET) && rules.passes_every_class(&Method::HEAD));
        assert_eq!(rules.check(Class::Private, &Method::POST), Ok(()));
        for class in [Class::Payload, Class::Catalog, Class::Generic] {
            assert_eq!(rules.check(class, &Method::POST), Err(ClosedTo::Method));
        }
        assert!(PassRules::all().passes_every_class(&Method::PUT));
    }
}
