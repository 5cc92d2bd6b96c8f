//! The admin tokens of `server.admin_token_file`, each with a role. The first line is a token of an administrator; lines
//! such as `read TOKEN` add others. `sha256:` and the digest can stand in place of a token, so that the file reveals none.
//! The file is read for each request: a changed token applies at once.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Maximum bytes of the file: a hundred tokens.
const MAX_FILE: u64 = 16 << 10;

/// Minimum length of a token: 16 characters of base64 are 96 bits, which nobody guesses.
const MIN_TOKEN: usize = 16;

/// Rights to the file that make a token everybody's: of its group and of others to write, and of others to read.
const OPEN_MODE: u32 = 0o026;

/// What the owner of a token may do; each role includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenRole {
    /// Read what has addresses.
    Read,
    /// Change something.
    Operate,
}

/// The tokens of a file.
#[derive(Debug)]
pub struct AdminTokens(Vec<AdminToken>);

#[derive(Debug)]
struct AdminToken {
    role: TokenRole,
    digest: [u8; 32],
    /// `None` if the file has the digest only.
    text: Option<String>,
}

impl AdminTokens {
    /// Reads the tokens of `file`.
    ///
    /// # Errors
    /// When the file cannot be read, others have rights to it, or a line is no token; the message names the setting.
    pub fn read(file: &Path) -> Result<Self, String> {
        let problem = |error: &str| format!("server.admin_token_file {}: {error}", file.display());
        let mut text = String::new();
        let read = File::open(file).and_then(|file| {
            let mode = file.metadata()?.mode();
            file.take(MAX_FILE + 1).read_to_string(&mut text)?;
            Ok(mode)
        });
        let mode = read.map_err(|error| problem(&format!("{error}: {}", remedy(error.kind()))))?;
        if mode & OPEN_MODE != 0 {
            let rights = mode & 0o777;
            return Err(problem(&format!(
                "other users may read or change it (mode {rights:03o}): chmod 600"
            )));
        }
        if text.len() as u64 > MAX_FILE {
            return Err(problem("has more than 16 KiB: name a file with tokens"));
        }
        parse(&text).map(Self).map_err(|error| problem(&error))
    }

    /// Returns the token of the highest role that the file has as text.
    pub fn text(&self) -> Option<&str> {
        let with_text = self.0.iter().filter_map(|token| Some((token.role, token.text.as_deref()?)));
        // The first of equal ones.
        with_text.rev().max_by_key(|(role, _)| *role).map(|(_, text)| text)
    }

    /// Returns the role of a token. The time does not reveal how much of a token is right: digests are compared, every
    /// octet and with every token.
    pub(super) fn role(&self, given: &[u8]) -> Option<TokenRole> {
        let given = Sha256::digest(given);
        self.0.iter().fold(None, |found, token| {
            let differing = given.iter().zip(token.digest).fold(0, |all, (a, b)| all | (a ^ b));
            found.max((differing == 0).then_some(token.role))
        })
    }
}

/// Reads the token that commands present, the one of the highest role in `file`.
///
/// # Errors
/// As [`AdminTokens::read`], and when the file has digests only.
pub fn read_token(file: &Path) -> Result<String, String> {
    let tokens = AdminTokens::read(file)?;
    tokens.text().map(str::to_owned).ok_or_else(|| {
        let file = file.display();
        format!(
            "server.admin_token_file {file}: has digests only: pass a file with the token by --token-file"
        )
    })
}

fn parse(text: &str) -> Result<Vec<AdminToken>, String> {
    let mut tokens = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (role, secret) = match line.split_once(char::is_whitespace) {
            Some(("read", secret)) => (TokenRole::Read, secret.trim()),
            Some(("operate", secret)) => (TokenRole::Operate, secret.trim()),
            _ if tokens.is_empty() => (TokenRole::Operate, line),
            // Other text below the first token has no meaning.
            _ => continue,
        };
        tokens.push(parse_token(role, secret)?);
    }
    if tokens.is_empty() {
        Err("the first line is empty: write the token there".to_owned())
    } else {
        Ok(tokens)
    }
}

fn parse_token(role: TokenRole, secret: &str) -> Result<AdminToken, String> {
    if secret.is_empty() {
        return Err("the first line is empty: write the token there".to_owned());
    }
    if let Some(digits) = secret.strip_prefix("sha256:") {
        let digest = parse_digest(digits).ok_or("sha256: needs the 64 hexadecimal digits of `sha256sum`")?;
        return Ok(AdminToken { role, digest, text: None });
    }
    if secret.chars().count() < MIN_TOKEN {
        return Err(format!(
            "the token has fewer than {MIN_TOKEN} characters: write a random one, such as that of `head -c 24 /dev/urandom | base64`"
        ));
    }
    Ok(AdminToken { role, digest: Sha256::digest(secret).into(), text: Some(secret.to_owned()) })
}

fn parse_digest(digits: &str) -> Option<[u8; 32]> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let octets = pairs.iter().map(|pair| {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        u8::try_from(high? * 16 + low?).ok()
    });
    octets.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "write a token to it, or correct the path",
        // The command runs as root, the relay with a copy of its own (docs/install.md).
        ErrorKind::PermissionDenied => "run commands with sudo, and give the relay a copy that it can read",
        _ => "name a file with a token",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OPERATE: &str = "s3cret-of-the-site";
    const READ: &str = "monitoring-may-read";

    /// Returns a token in the form that hides it.
    fn hidden(token: &str) -> String {
        let digits: Vec<String> = Sha256::digest(token).iter().map(|octet| format!("{octet:02x}")).collect();
        format!("sha256:{}", digits.concat())
    }

    #[test]
    fn lines_of_a_file_are_tokens_with_roles() {
        use TokenRole::{Operate, Read};
        let (hidden_operate, hidden_read) = (hidden(OPERATE), hidden(READ));
        for (text, operate, read) in [
            (OPERATE.to_owned(), Some(Operate), None),
            (format!("  {OPERATE}  \nsecond line of notes\n"), Some(Operate), None),
            (format!("{OPERATE}\r\nread {READ}\r\n"), Some(Operate), Some(Read)),
            (format!("# of 2026\noperate {OPERATE}\n\nread\t{READ}\n"), Some(Operate), Some(Read)),
            (format!("read {READ}"), None, Some(Read)),
            (format!("{hidden_operate}\nread {hidden_read}"), Some(Operate), Some(Read)),
            (
                format!("{hidden_operate}\nread {}", hidden_read.to_uppercase().replace("SHA", "sha")),
                Some(Operate),
                Some(Read),
            ),
            // The higher role of a token counts, in any order.
            (format!("read {OPERATE}\noperate {hidden_operate}"), Some(Operate), None),
            (format!("{OPERATE}\nread {OPERATE}"), Some(Operate), None),
        ] {
            let tokens = AdminTokens(parse(&text).unwrap());
            let role = |given: &str| tokens.role(given.as_bytes());
            assert_eq!((role(OPERATE), role(READ)), (operate, read), "{text}");
            let operate_prefix = &OPERATE[..OPERATE.len() - 1];
            for wrong in
                ["", operate_prefix, "read", &*hidden_operate, &*hidden_read, &format!("operate {OPERATE}")]
            {
                assert_eq!(role(wrong), None, "{wrong}: {text}");
            }
        }
    }

    #[test]
    fn line_that_is_no_token_is_refused_with_advice() {
        for (text, expected) in [
            ("", "first line is empty"),
            ("\n", "first line is empty"),
            (" ", "first line is empty"),
            ("# notes only\n", "first line is empty"),
            ("x", "fewer than 16 characters"),
            ("123456789012345", "fewer than 16 characters"),
            ("read 123456789012345", "fewer than 16 characters"),
            ("s3cret-of-the-site\nread short", "fewer than 16 characters"),
            ("sha256:00", "64 hexadecimal digits"),
            ("s3cret-of-the-site\noperate sha256:zz", "64 hexadecimal digits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse("1234567890123456").is_ok());
    }

    #[test]
    fn commands_present_the_text_of_the_highest_role() {
        let hidden = hidden(OPERATE);
        for (text, expected) in [
            (format!("read {READ}\noperate {OPERATE}"), Some(OPERATE)),
            (format!("{hidden}\nread {READ}"), Some(READ)),
            (hidden, None),
        ] {
            assert_eq!(AdminTokens(parse(&text).unwrap()).text(), expected, "{text}");
        }
    }

    #[test]
    fn file_that_others_may_use_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, OPERATE).unwrap();
        for (mode, is_accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o440, true),
            (0o644, false),
            (0o604, false),
            (0o660, false),
            (0o620, false),
            (0o602, false),
            (0o666, false),
            (0o777, false),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_token(&file);
            assert_eq!(read.is_ok(), is_accepted, "{mode:o} {read:?}");
            if let Err(error) = read {
                assert!(error.contains(&format!("(mode {mode:o}): chmod 600")), "{error}");
            }
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, format!("{OPERATE}\n{}", "x\n".repeat(9 << 10))).unwrap();
        assert!(read_token(&file).unwrap_err().contains("more than 16 KiB"));
        std::fs::write(&file, hidden(OPERATE)).unwrap();
        assert!(read_token(&file).unwrap_err().contains("--token-file"));
    }
}
