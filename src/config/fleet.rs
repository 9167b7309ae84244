//! The configuration of `sooner fleet`: its own `[http]`, and a `[[pipeline]]` for each pipeline that it looks at.

use std::path::Path;

use super::http::read_http;
use super::lines::Lines;
use super::reader::Section;
use crate::http::fleet::Peer;
use crate::http::settings::HttpSettings;

/// Checked configuration of a page over many pipelines.
#[derive(Debug)]
pub struct FleetConfig {
    /// The listener of the page.
    pub http: HttpSettings,
    /// The pipelines.
    pub pipelines: Vec<Peer>,
}

impl FleetConfig {
    /// Reads and checks a file. The error lists all of its problems.
    pub fn load(path: &Path) -> anyhow::Result<FleetConfig> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow::anyhow!(
                "cannot read {}: {error}. To do: name with --config a file with a [[pipeline]] and its url for each.",
                path.display()
            )
        })?;
        FleetConfig::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(|problems| {
            let list = problems.iter().map(|problem| format!("\n  - {problem}")).collect::<String>();
            anyhow::anyhow!("the configuration {} has {} problem(s):{list}", path.display(), problems.len())
        })
    }

    /// Checks a text, and returns all of its problems as the error. Paths of secrets start from `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<FleetConfig, Vec<String>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string()])?;
        let mut root = Section::root(table, folder);
        let http = root.section("http", read_http);
        let pipelines = root.sections("pipeline", read_pipeline);
        if pipelines.is_empty() && !root.has("pipeline") {
            root.problem("pipeline", "is missing: write a [[pipeline]] with its url for each");
        }
        match (http, root.finish()) {
            (Some(http), problems) if problems.is_empty() => Ok(FleetConfig { http, pipelines }),
            (_, problems) => Err(Lines::of(text).place_all(problems)),
        }
    }
}

fn read_pipeline(section: &mut Section) -> Option<Peer> {
    let url = section.text("url", check_url);
    let page = section.optional("page", check_url);
    let token = section.secret("token");
    let url = url?;
    Some(Peer { page: page.unwrap_or_else(|| url.clone()), url, token })
}

/// A listener's URL, without what has no place in it.
fn check_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if rest.contains('@') => Err("secrets do not belong in the file: set token".to_owned()),
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[') => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected a URL such as \"http://orders:9640\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_have_urls_and_may_have_pages_and_tokens_of_their_own() {
        let text = "[http]\n[[pipeline]]\nurl = 'http://orders:9640/'\n[[pipeline]]\nurl = 'https://b/sooner'\n\
                    page = 'https://b.example'\ntoken = { env = 'PATH' }";
        let config = FleetConfig::parse(text, Path::new(".")).unwrap();
        let [first, second] = &config.pipelines[..] else { panic!("{config:?}") };
        assert_eq!((first.url.as_str(), first.page.as_str()), ("http://orders:9640", "http://orders:9640"));
        assert_eq!((second.url.as_str(), second.page.as_str()), ("https://b/sooner", "https://b.example"));
        assert!(first.token.is_none() && second.token.is_some());
        assert!(!format!("{config:?}").contains(&std::env::var("PATH").unwrap()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let problems = |text: &str| FleetConfig::parse(text, Path::new(".")).unwrap_err().join("\n");
        let text = "[http]\nlisten = '0.0.0.0:1'\n[[pipeline]]\nurl = 'orders:9640'\n[[pipeline]]\nurl = 'http://me:s3cret@b'\n\
                    tokn = 1";
        let found = problems(text);
        for expected in [
            "line 2: http.listen: beyond this machine a token or client certificates are needed",
            "line 4: pipeline[0].url: 'orders:9640': expected a URL",
            "pipeline[1].url:",
            "pipeline[1].tokn: is not known; did you mean 'token'?",
        ] {
            assert!(found.contains(expected), "'{expected}' not in:\n{found}");
        }
        assert!(problems("[http]").contains("pipeline: is missing"));
    }
}
