//! The HTML page for people who open the address in a browser.

use std::fmt::Write as _;
use std::time::Instant;

use axum::extract::State;
use axum::response::Html;

use super::Shared;
use crate::admin::status::View;

/// Every path, for the answer to an unknown one.
pub(super) const PATHS: &str = "/, /livez, /readyz, /status, /metrics, /wait";

const ENDPOINTS: &[(&str, &str)] = &[
    ("/livez", "200 while the loop turns"),
    ("/readyz", "200 while the stream runs, every target is up and the lag is small; otherwise 503 and the reasons"),
    ("/status", "everything, as JSON"),
    ("/metrics", "for Prometheus"),
    ("/wait?token=0/0&amp;timeout=500ms&amp;stage=settled", "200 once the caches are settled past the token, or 504"),
];

pub(super) async fn page(State(shared): State<Shared>) -> Html<String> {
    let view = View::of(&shared.board.status(), Instant::now(), shared.ready_max_lag);
    Html(render(&view))
}

fn render(view: &View) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>coherd</title>\
         <style>body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:50em;padding:0 1em}\
         td,th{padding:.1em 1em .1em 0;text-align:left;vertical-align:top}</style>",
    );
    // Writing to a String cannot fail.
    let _ = write!(page, "<h1>coherd {}</h1><table>", escape(&view.version));
    let mut row = |name: &str, value: &str| {
        let _ = write!(page, "<tr><th>{}<td>{}", escape(name), escape(value));
    };
    row("state", &view.state);
    for reason in &view.not_ready {
        row("not ready", reason);
    }
    row("slot", &view.slot);
    row("settled", &view.watermarks.settled);
    row("lag", &format!("{} bytes, {:.1} s", view.lag_bytes, view.lag_seconds));
    if let Some(bytes) = view.slot_retained_bytes {
        row("retained", &format!("{bytes} bytes"));
    }
    for target in &view.targets {
        row(&format!("target {}", target.name), target.state());
    }
    let covered = view.rules.iter().filter(|rule| rule.covered).count();
    row("rules", &format!("{covered} of {} covered", view.rules.len()));
    page.push_str("</table><h2>Pages</h2><table>");
    for (path, about) in ENDPOINTS {
        let _ = write!(page, "<tr><td><a href=\"{path}\">{path}</a><td>{about}");
    }
    page.push_str("</table></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(super::escape("<b>\"&\"</b>"), "&lt;b&gt;&quot;&amp;&quot;&lt;/b&gt;");
    }
}
