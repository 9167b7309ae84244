//! The page: its parts, put together once, so that the browser asks for one thing and nothing from elsewhere.

use std::sync::LazyLock;

/// The whole page.
pub static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = include_str!("page/page.html");
    page.replacen("{style}", include_str!("page/style.css"), 1).replacen("{script}", &SCRIPTS.concat(), 1)
});

/// Its scripts; those that others call come first.
const SCRIPTS: [&str; 11] = [
    include_str!("page/base.js"),
    include_str!("page/pipeline.js"),
    include_str!("page/kafka.js"),
    include_str!("page/events.js"),
    include_str!("page/table.js"),
    include_str!("page/trust.js"),
    include_str!("page/records.js"),
    include_str!("page/erasures.js"),
    include_str!("page/tasks.js"),
    include_str!("page/fleet.js"),
    include_str!("page/main.js"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_for_nothing_elsewhere() {
        assert!(PAGE.contains("function pipelines(") && PAGE.contains(":root {"));
        assert!(!PAGE.contains("{style}") && !PAGE.contains("{script}"));
        for elsewhere in ["src=", "@import", "url("] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
    }
}
