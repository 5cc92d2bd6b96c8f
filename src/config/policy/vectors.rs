//! Evaluation of a profile's test vectors, by the functions that classify clients' requests.

use std::sync::Arc;

use http::HeaderName;

use super::plausibility::is_plausible;
use super::{Policy, PolicyError};
use crate::profile::{DigestList, TestVector, VectorFailure};
use crate::{Config, Profile, Profiles};

/// Evaluates every test vector of `profile`, one of `profiles`, and returns the results that differ.
///
/// # Errors
/// Patterns that are too large together.
pub fn evaluate_vectors(
    profile: &Arc<Profile>,
    profiles: &Profiles,
) -> Result<Vec<VectorFailure>, PolicyError> {
    let mut failures = Vec::new();
    let mut hosts: Vec<Option<&str>> = profile.vectors.iter().map(|vector| vector.host.as_deref()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    for host in hosts {
        let policy = Policy::new(&Config::for_profile(profile, profiles, host)?)?;
        for vector in profile.vectors.iter().filter(|vector| vector.host.as_deref() == host) {
            evaluate(&policy, vector, &mut failures);
        }
    }
    failures.sort_by_key(|failure| failure.line);
    Ok(failures)
}

fn evaluate(policy: &Policy, vector: &TestVector, failures: &mut Vec<VectorFailure>) {
    let mut compare = |result, expected: Option<&str>, found: &str| {
        if expected.is_some_and(|expected| expected != found) {
            let expected = expected.unwrap_or_default().to_owned();
            let (line, path, found) = (vector.line, vector.path.clone(), found.to_owned());
            failures.push(VectorFailure { line, path, result, expected, found });
        }
    };
    let Some(route) = policy.route(vector.host.as_deref(), &vector.path) else { return };
    let classified = policy.classify(route, &vector.path);
    compare("class", Some(vector.class.as_str()), classified.class.as_str());
    let text = |is: bool| if is { "true" } else { "false" };
    compare("closed", vector.is_closed.map(text), text(classified.is_closed()));
    compare("content_type", vector.content_type.as_deref(), &classified.content_type);
    compare("form", vector.form.map(|form| form.as_str()), classified.form.as_str());
    let revision = policy.revision(route, &vector.path, || classified.class);
    let revision = revision.map_or("none", |revision| revision.sequence);
    compare("revision", vector.revision.as_deref(), revision);
    compare("digests", vector.digests.as_deref(), classified.digests().map_or("none", DigestList::as_str));
    if let Some(beginning) = &vector.beginning {
        let plausible = is_plausible(&vector.path, classified.format.as_deref(), None, Some(beginning));
        compare("plausible", vector.plausible.map(text), text(plausible));
    }
    let origin = route
        .profile
        .origin
        .as_ref()
        .map(|origin| origin.host_in(vector.query.as_deref().unwrap_or_default()));
    let origin = origin.unwrap_or(Ok(None)).map_or("refused", |host| host.unwrap_or("none"));
    compare("origin", vector.origin.as_deref(), origin);
    let fields: Vec<_> = classified.key_fields().iter().map(HeaderName::as_str).collect();
    compare("key_fields", vector.key_fields.as_deref(), &fields.join(","));
    let query = vector.query.as_deref().and_then(|query| classified.key_query().select(query));
    compare("key_query", vector.key_query.as_deref(), query.as_deref().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_vectors_of_built_in_profiles_hold() {
        let profiles = Profiles::built_in().unwrap();
        for profile in profiles.iter() {
            assert_eq!(evaluate_vectors(profile, &profiles).unwrap(), [], "{}", profile.name);
            assert!(!profile.vectors.is_empty(), "{} has test vectors", profile.name);
        }
    }
}
