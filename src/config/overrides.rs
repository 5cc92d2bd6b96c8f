//! Settings given outside the file: command-line flags and environment variables. They reach the document as text, so
//! every value is read and checked by the same reader wherever it was given.

/// Settings given by flags; an empty list or `None` means that the flag was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen ADDR`, any number of times.
    pub listen: Vec<String>,
    /// `--upstream URL`, any number of times, by priority. Replaces every upstream of the file.
    pub upstream: Vec<String>,
    /// `--store DIR`
    pub store: Option<String>,
    /// `--admin ADDR`
    pub admin: Option<String>,
    /// `--tls-cert PEM`
    pub tls_cert: Option<String>,
    /// `--tls-key PEM`
    pub tls_key: Option<String>,
    /// `--wan-limit RATE`
    pub wan_limit: Option<String>,
}

impl Overrides {
    /// Section, key, flag and values of each flag that was given.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &[String])> {
        [
            ("server", "listen", "--listen", self.listen.as_slice()),
            ("upstream", "url", "--upstream", self.upstream.as_slice()),
            ("store", "dir", "--store", self.store.as_slice()),
            ("server", "admin", "--admin", self.admin.as_slice()),
            ("server", "tls_cert", "--tls-cert", self.tls_cert.as_slice()),
            ("server", "tls_key", "--tls-key", self.tls_key.as_slice()),
            ("wan", "limit", "--wan-limit", self.wan_limit.as_slice()),
        ]
        .into_iter()
        .filter(|(_, _, _, values)| !values.is_empty())
    }
}

/// Returns the process's environment for [`Config::load`](crate::Config::load). Bytes that are not UTF-8 are replaced,
/// so the setting's reader refuses the value; `std::env::vars` panics on any such variable.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
