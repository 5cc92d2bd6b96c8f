//! A bucket as storage of the tier (S3 and compatible services): credentials from a file or the environment, one retry.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::client::BucketClient;
use crate::problem::{TierError, TierProblem};
use gupd_config::{BucketSettings, Trust};

/// Maximum size of a credentials file, so that a wrong path is a clear error.
const MAX_FILE: u64 = 64 << 10;

/// Wait before the one retry of a request that the service refused for its load.
const RETRY: Duration = Duration::from_millis(100);

/// Credentials of a bucket. Never shown.
#[derive(Default, PartialEq, Eq)]
struct Credentials {
    key_id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
}

/// Opens a bucket. Connects to nothing.
///
/// # Errors
/// If the credentials or certificates cannot be used.
pub(crate) fn open(settings: &BucketSettings, timeout: Duration) -> Result<Arc<dyn ObjectStore>, TierError> {
    let credentials = match &settings.credentials_file {
        Some(file) => Credentials::from_file(file)?,
        None => Credentials::from_variables(|name| std::env::var(name).ok()),
    };
    let (Some(key_id), Some(secret)) = (credentials.key_id, credentials.secret) else {
        let source = match &settings.credentials_file {
            Some(file) => format!("{} lacks aws_access_key_id or aws_secret_access_key", file.display()),
            None => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set".to_owned(),
        };
        return Err(TierError::new(TierProblem::Credentials, source));
    };
    let endpoint = settings.endpoint.as_ref();
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.scheme() == Some(&Scheme::HTTP));
    let trust = Trust { ca: settings.ca.clone(), ..Trust::default() };
    let backoff = BackoffConfig { init_backoff: RETRY, max_backoff: RETRY, base: 2.0 };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_access_key_id(key_id)
        .with_secret_access_key(secret)
        .with_allow_http(is_plain)
        .with_disable_bulk_delete(true)
        .with_client_options(ClientOptions::new().with_allow_http(is_plain))
        .with_retry(RetryConfig { backoff, max_retries: 1, retry_timeout: timeout })
        .with_http_connector(BucketClient::new(&trust, !is_plain, timeout)?);
    if let Some(token) = credentials.token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.to_string().trim_end_matches('/'));
    }
    let bucket = builder.build()?;
    Ok(match settings.prefix.as_str() {
        "" => Arc::new(bucket),
        prefix => Arc::new(PrefixStore::new(bucket, ObjectPath::from(prefix))),
    })
}

impl Credentials {
    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| get(name).filter(|value| !value.is_empty());
        Self {
            key_id: get("AWS_ACCESS_KEY_ID"),
            secret: get("AWS_SECRET_ACCESS_KEY"),
            token: get("AWS_SESSION_TOKEN"),
        }
    }

    /// Reads a file in the form of the AWS tools, with one profile. Only its owner may read it.
    fn from_file(path: &Path) -> Result<Self, TierError> {
        let name = path.display();
        let file = File::open(path).map_err(|error| credentials_error(format!("{name}: {error}")))?;
        let status = file.metadata().map_err(|error| credentials_error(format!("{name}: {error}")))?;
        if status.mode() & 0o077 != 0 {
            let mode = status.mode() & 0o777;
            return Err(credentials_error(format!(
                "{name} has mode {mode:04o}, and others may use it: chmod 600"
            )));
        }
        let mut text = String::new();
        let read = file.take(MAX_FILE).read_to_string(&mut text);
        read.map_err(|error| credentials_error(format!("{name}: {error}")))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut credentials = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => credentials.key_id = value,
                "aws_secret_access_key" => credentials.secret = value,
                "aws_session_token" => credentials.token = value,
                _ => {}
            }
        }
        credentials
    }
}

fn credentials_error(reason: String) -> TierError {
    TierError::new(TierProblem::Credentials, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn is(credentials: &Credentials, expected: [Option<&str>; 3]) -> bool {
        let Credentials { key_id, secret, token } = credentials;
        [key_id, secret, token].map(Option::as_deref) == expected
    }

    #[test]
    fn credentials_are_read_in_the_form_of_aws_tools() {
        let text = "[default]\n# key\naws_access_key_id = AKIA\nAWS_SECRET_ACCESS_KEY=a/b+c=\n\nregion = x\n";
        assert!(is(&Credentials::parse(text), [Some("AKIA"), Some("a/b+c="), None]));
        assert!(is(
            &Credentials::parse("aws_session_token = t\naws_access_key_id =\n"),
            [None, None, Some("t")]
        ));
        let variables = |name: &str| (name != "AWS_SESSION_TOKEN").then(|| name.to_lowercase());
        let expected = [Some("aws_access_key_id"), Some("aws_secret_access_key"), None];
        assert!(is(&Credentials::from_variables(variables), expected));
    }

    #[test]
    fn credentials_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_accepted) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Credentials::from_file(file.path()).is_ok(), is_accepted, "{mode:o}");
        }
        let missing = Credentials::from_file(Path::new("/nonexistent/credentials")).err().unwrap();
        assert!(missing.to_string().starts_with("/nonexistent/credentials: "), "{missing}");
    }
}
