//! Text with placeholders in braces. A template has only placeholders that its users can fill, so rendering cannot
//! fail.

/// Text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<TemplatePart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Placeholder(&'static str),
}

impl Template {
    /// Parses text with these placeholders.
    pub(super) fn parse(text: &str, known: &[&'static str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) =
                after.split_once('}').map_or((after, None), |(name, rest)| (name, Some(rest)));
            let placeholder = known.iter().find(|known| **known == name);
            let Some((placeholder, behind)) = placeholder.zip(behind) else {
                let known: Vec<_> = known.iter().map(|name| format!("{{{name}}}")).collect();
                return Err(format!("unknown placeholder {{{name}}}: use {}", known.join(", ")));
            };
            parts.push(TemplatePart::Text(before.to_owned()));
            parts.push(TemplatePart::Placeholder(placeholder));
            rest = behind;
        }
        parts.push(TemplatePart::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Returns the text with the value of each placeholder.
    pub fn render<'a>(&'a self, value: impl Fn(&'static str) -> &'a str) -> String {
        let text = |part: &'a TemplatePart| match part {
            TemplatePart::Text(text) => text.as_str(),
            TemplatePart::Placeholder(name) => value(name),
        };
        self.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_unknown_ones_refused() {
        let known = ["url", "port"];
        let template = Template::parse("a {url}:{port}{url}", &known).unwrap();
        assert_eq!(template.render(|name| if name == "url" { "U" } else { "1" }), "a U:1U");
        for text in ["{host}", "{url", "{}", "{ url}", "a { b"] {
            let error = Template::parse(text, &known).unwrap_err();
            assert!(error.contains("use {url}, {port}"), "{error}");
        }
    }
}
