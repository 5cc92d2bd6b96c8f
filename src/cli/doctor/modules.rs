//! The finding about the kernel's security modules: SELinux or AppArmor may refuse what the unit and the configuration
//! allow, and the error is then the same as for wrong permissions. gupd needs no rule of either; the finding names those
//! cases in which one applies to it.

use std::fs;
use std::path::Path;

use super::{Diagnosis, State};

/// Modules of the kernel, in the order in which it asks them.
const MODULES: &str = "/sys/kernel/security/lsm";

/// `1` if SELinux refuses, `0` if it only logs.
const SELINUX_ENFORCE: &str = "/sys/fs/selinux/enforce";

/// Profile or context of this process.
const OWN_CONTEXT: &str = "/proc/self/attr/current";

/// Types of SELinux for files of users: systemd may not execute such a program.
const USER_TYPES: [&str; 4] = ["user_home_t", "admin_home_t", "user_tmp_t", "tmp_t"];

/// What the kernel says about its security modules.
#[derive(Debug, Default, PartialEq, Eq)]
struct SecurityModules {
    /// Names of the modules; empty if they cannot be read.
    modules: String,
    is_selinux_enforcing: bool,
    /// Profile of AppArmor or context of SELinux of this process.
    context: String,
    /// SELinux label of the program's file.
    label: String,
}

/// Examines the machine.
pub(super) fn examine() -> Diagnosis {
    SecurityModules::read().diagnose()
}

impl SecurityModules {
    fn read() -> Self {
        let text = |path: &str| clean(&fs::read(path).unwrap_or_default());
        let label = std::env::current_exe().ok().map(|program| selinux_label(&program));
        Self {
            modules: text(MODULES),
            is_selinux_enforcing: text(SELINUX_ENFORCE) == "1",
            context: text(OWN_CONTEXT),
            label: label.unwrap_or_default(),
        }
    }

    fn diagnose(&self) -> Diagnosis {
        let has = |name: &str| self.modules.split(',').any(|module| module == name);
        let (state, finding, remedy) = if has("selinux") {
            self.diagnose_selinux()
        } else if has("apparmor") {
            self.diagnose_apparmor()
        } else if self.modules.is_empty() {
            (State::Good, format!("{MODULES} cannot be read: no sign of SELinux or AppArmor"), None)
        } else {
            (State::Good, format!("neither SELinux nor AppArmor: {}", self.modules), None)
        };
        Diagnosis {
            state,
            subject: "security modules".to_owned(),
            finding,
            remedy: remedy.map(ToOwned::to_owned),
        }
    }

    fn diagnose_selinux(&self) -> (State, String, Option<&'static str>) {
        let kind = self.label.split(':').nth(2).unwrap_or_default();
        if !self.is_selinux_enforcing {
            return (State::Good, "SELinux logs and refuses nothing".to_owned(), None);
        }
        if USER_TYPES.contains(&kind) {
            let finding =
                format!("SELinux: the program has the type {kind}, which a service may not execute");
            return (State::Problem, finding, Some("sudo restorecon -v the program's path"));
        }
        let finding = "SELinux enforces; a service without a policy of its own is unconfined".to_owned();
        (State::Good, finding, None)
    }

    fn diagnose_apparmor(&self) -> (State, String, Option<&'static str>) {
        match self.context.as_str() {
            "" | "unconfined" => {
                (State::Good, "AppArmor is on, and no profile applies to gupd".to_owned(), None)
            }
            profile => {
                let finding = format!("AppArmor: the profile {profile} applies to gupd");
                let remedy = "let it read /etc/gupd, write store.dir and listen; journalctl -k | grep DENIED";
                (State::Warning, finding, Some(remedy))
            }
        }
    }
}

/// Returns the label of a file; empty if it has none.
fn selinux_label(file: &Path) -> String {
    let mut label = [0; 256];
    let length = rustix::fs::getxattr(file, "security.selinux", &mut label).unwrap_or(0);
    clean(label.get(..length).unwrap_or_default())
}

/// Returns the text of a value of the kernel, which may end in a zero or a line feed.
fn clean(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches(['\0', '\n']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_matter_only_if_they_restrict_gupd() {
        let modules = |modules: &str, is_selinux_enforcing, context: &str, label: &str| SecurityModules {
            modules: modules.to_owned(),
            is_selinux_enforcing,
            context: context.to_owned(),
            label: label.to_owned(),
        };
        let (unconfined, enforced) = ("unconfined", "/usr/bin/gupd (enforce)");
        let (bin, home) = ("system_u:object_r:bin_t:s0", "unconfined_u:object_r:user_home_t:s0");
        for (examined, state, words) in [
            (modules("", false, "", ""), State::Good, "cannot be read"),
            (modules("capability,landlock,yama", false, "", ""), State::Good, "neither"),
            (modules("capability,landlock,apparmor", false, unconfined, ""), State::Good, "no profile"),
            (modules("apparmor,bpf", false, "", ""), State::Good, "no profile"),
            (modules("capability,apparmor", false, enforced, ""), State::Warning, "/usr/bin/gupd (enforce)"),
            (modules("capability,selinux", false, "", home), State::Good, "refuses nothing"),
            (modules("capability,selinux", true, "", bin), State::Good, "unconfined"),
            (modules("capability,selinux", true, "", ""), State::Good, "unconfined"),
            (modules("capability,selinux", true, "", home), State::Problem, "user_home_t"),
        ] {
            let diagnosis = examined.diagnose();
            assert_eq!(diagnosis.state, state, "{examined:?}");
            assert!(diagnosis.finding.contains(words), "{diagnosis:?}");
            assert_eq!(diagnosis.remedy.is_none(), state == State::Good, "{diagnosis:?}");
        }
    }

    #[test]
    fn values_of_the_kernel_end_before_their_terminators() {
        for (value, text) in
            [(&b"1"[..], "1"), (b"unconfined\n", "unconfined"), (b"a:b:c:s0\0", "a:b:c:s0"), (b"", "")]
        {
            assert_eq!(clean(value), text);
        }
    }
}
