//! Class rules as data: each profile is a list of patterns with their classes, and the first match wins. Configured
//! rules precede the built-in ones and can override each of them. Other paths are generic: RFC 9111 costs a
//! revalidation, while mutable content classed as a payload would be stale for ever.

use globset::{GlobSet, GlobSetBuilder};

use crate::{Class, Profile, Rule, pattern};

type Table = &'static [(&'static str, Class)];

/// SyLink content of a manager.
const SEP: Table = &[
    // Encrypted communication of each client with its manager. Inferred from the encrypted query.
    ("**/secars/**", Class::Private),
    ("**/reporting/**", Class::Private),
    // Indices that the manager writes anew: documented by the vendor, or seen in its outbox.
    ("**/index.dat", Class::Catalog),
    ("**/index*.dax", Class::Catalog),
    ("**/globalindex.xml", Class::Catalog),
    ("**/globallist.xml", Class::Catalog),
    // The revision is in the path. The path was seen; that its bytes never change is inferred from the revision.
    ("/content/{????????-????-????-????-????????????}/[0-9]*/full.zip", Class::Payload),
    // Deltas stand beside the full set, one for each older revision; their names are not documented, the extension is.
    ("/content/{????????-????-????-????-????????????}/[0-9]*/*.dax", Class::Payload),
];

/// A LiveUpdate server, public or internal. Catalogs first: a catalog may look like a payload, never the reverse.
const LIVEUPDATE: Table = &[
    // Seen on the wire and in a manager's LiveUpdate store.
    ("**/minitri.flg", Class::Catalog),
    ("**/*livetri.zip", Class::Catalog),
    ("**/liveupdt.tri", Class::Catalog),
    ("**/symantecproductcatalog.zip", Class::Catalog),
    // Names begin with the second they were made at, ten digits: seen. That such a file never changes is inferred.
    ("**/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*", Class::Payload),
    // Documented by another proxy's rule for these servers.
    ("**/*.{7z,irn,m26}", Class::Payload),
    // Not documented; names of one generation of definitions.
    ("**/*.{m35,x86}", Class::Payload),
    // Not documented; product marks within payload names, asked for only behind a number as in every name seen.
    ("**/[0-9]*{jtun,sesm,sesc,curdefs}*", Class::Payload),
];

const fn tables(profile: Profile) -> &'static [Table] {
    match profile {
        Profile::Auto => &[SEP, LIVEUPDATE],
        Profile::Sep => &[SEP],
        Profile::LiveUpdate => &[LIVEUPDATE],
        Profile::Generic => &[],
    }
}

/// The rules of one profile, compiled.
#[derive(Debug)]
pub(super) struct Classes {
    patterns: GlobSet,
    // By the pattern's index.
    classes: Vec<Class>,
}

impl Classes {
    pub(super) fn new(profile: Profile, own: &[Rule]) -> Result<Self, globset::Error> {
        let built_in = tables(profile).iter().copied().flatten().copied();
        let rules = own.iter().map(|rule| (rule.pattern.as_str(), rule.class)).chain(built_in);
        let mut patterns = GlobSetBuilder::new();
        let mut classes = Vec::new();
        for (glob, class) in rules {
            patterns.add(pattern::compile(glob)?);
            classes.push(class);
        }
        Ok(Self { patterns: patterns.build()?, classes })
    }

    /// Returns the class of a folded path.
    pub(super) fn class(&self, path: &str) -> Class {
        let first = self.patterns.matches(path).into_iter().min();
        first.and_then(|index| self.classes.get(index)).copied().unwrap_or(Class::Generic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITIONS: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/210602017";

    fn class(profile: Profile, path: &str) -> Class {
        Classes::new(profile, &[]).unwrap().class(&pattern::fold(path))
    }

    #[test]
    fn sylink_paths_have_their_protocol_classes() {
        for (path, expected) in [
            (format!("{DEFINITIONS}/full.zip"), Class::Payload),
            (format!("{DEFINITIONS}/FULL.ZIP"), Class::Payload),
            (format!("{DEFINITIONS}/xdelta210601003.dax"), Class::Payload),
            (DEFINITIONS.replace('{', "%7B").replace('}', "%7d") + "/full.zip", Class::Payload),
            (format!("{DEFINITIONS}/other.txt"), Class::Generic),
            (format!("{DEFINITIONS}/deeper/full.zip"), Class::Generic),
            ("/content/{535CB6A4}/1/full.zip".into(), Class::Generic),
            ("/content/full.zip".into(), Class::Generic),
            ("/agent/0123456789abcdef0123456789abcdef/index2.dax".into(), Class::Catalog),
            ("/agent/index.dat".into(), Class::Catalog),
            ("/agent/gup/globalIndex.xml".into(), Class::Catalog),
            ("/agent/gup/globallist.xml".into(), Class::Catalog),
            ("/secars/secars.dll".into(), Class::Private),
            ("/SecArs/index.dat".into(), Class::Private),
            ("/reporting/x/y.php".into(), Class::Private),
            ("/secars".into(), Class::Generic),
        ] {
            assert_eq!(class(Profile::Sep, &path), expected, "{path}");
            assert_eq!(class(Profile::Auto, &path), expected, "{path}");
            assert_eq!(class(Profile::Generic, &path), Class::Generic, "{path}");
        }
    }

    #[test]
    fn liveupdate_names_have_their_protocol_classes() {
        for (path, expected) in [
            ("/minitri.flg", Class::Catalog),
            ("/automatic$20liveupdate_3.3.0.102_english_livetri.zip", Class::Catalog),
            ("/streaming/norton$202009_1.0_symalllanguages_livetri.zip", Class::Catalog),
            ("/livetri.zip", Class::Catalog),
            ("/1369163480_livetri.zip", Class::Catalog),
            ("/sesclu_12.1_english_livetri.zip", Class::Catalog),
            ("/liveupdt.tri", Class::Catalog),
            ("/SymantecProductCatalog.zip", Class::Catalog),
            ("/1369163480jtun_nav2k8.zip", Class::Payload),
            ("/clu-prod/1369163480jtun_nav2k8enn09m25.m26", Class::Payload),
            ("/x.7z", Class::Payload),
            ("/x.IRN", Class::Payload),
            ("/136916jtun_x.zip", Class::Payload),
            ("/136916348_x.zip", Class::Generic),
            ("/other.zip", Class::Generic),
            ("/1369163480/other.zip", Class::Generic),
        ] {
            assert_eq!(class(Profile::LiveUpdate, path), expected, "{path}");
            assert_eq!(class(Profile::Auto, path), expected, "{path}");
            assert_eq!(class(Profile::Generic, path), Class::Generic, "{path}");
        }
    }

    #[test]
    fn configured_rules_precede_built_in_ones_in_order() {
        let rule = |pattern: &str, class| Rule { pattern: pattern.into(), class };
        let own = [
            rule("/packages/keep/**", Class::Generic),
            rule("/packages/**", Class::Payload),
            rule("**/minitri.flg", Class::Private),
        ];
        let classes = Classes::new(Profile::Auto, &own).unwrap();
        assert_eq!(classes.class("/packages/a/b.exe"), Class::Payload);
        assert_eq!(classes.class("/packages/keep/x.7z"), Class::Generic);
        assert_eq!(classes.class("/minitri.flg"), Class::Private);
    }
}
