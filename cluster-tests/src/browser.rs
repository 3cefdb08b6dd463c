//! Windows of a real Chromium, driven through `clients/js/browser.mjs`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::driver::Driver;
use crate::paths;

/// A browser; its windows are known by name.
pub struct Browser {
    driver: Driver,
}

impl Browser {
    /// Starts the driver; Chromium itself starts with the first window.
    pub fn start() -> Result<Self, String> {
        let mut node = Command::new("node");
        node.arg(paths::js("browser.mjs"));
        Ok(Self { driver: Driver::start(node)? })
    }

    /// Opens `url` in a window of the given size.
    pub fn open(&mut self, window: &str, url: &str, size: (u32, u32)) -> Result<(), String> {
        let (width, height) = size;
        self.run(json!({
            "cmd": "open", "window": window, "url": url, "width": width, "height": height,
        }))
        .map(drop)
    }

    /// Replaces the text of an input.
    pub fn fill(&mut self, window: &str, selector: &str, text: &str) -> Result<(), String> {
        self.run(json!({"cmd": "fill", "window": window, "selector": selector, "text": text}))
            .map(drop)
    }

    /// Clicks an element.
    pub fn click(&mut self, window: &str, selector: &str) -> Result<(), String> {
        self.run(json!({"cmd": "click", "window": window, "selector": selector})).map(drop)
    }

    /// Presses a key in an element.
    pub fn press(&mut self, window: &str, selector: &str, key: &str) -> Result<(), String> {
        self.run(json!({"cmd": "press", "window": window, "selector": selector, "key": key}))
            .map(drop)
    }

    /// Waits until an element that matches contains `text`.
    pub fn wait_text(&mut self, window: &str, selector: &str, text: &str) -> Result<(), String> {
        self.run(json!({"cmd": "wait_text", "window": window, "selector": selector, "text": text}))
            .map(drop)
    }

    /// Waits until an element has an attribute's value.
    pub fn wait_attribute(
        &mut self,
        window: &str,
        selector: &str,
        (name, value): (&str, &str),
    ) -> Result<(), String> {
        self.run(json!({
            "cmd": "wait_attribute", "window": window, "selector": selector,
            "name": name, "value": value,
        }))
        .map(drop)
    }

    /// The texts of all elements that match, in the page's order.
    pub fn texts(&mut self, window: &str, selector: &str) -> Result<Vec<String>, String> {
        let found = self.run(json!({"cmd": "texts", "window": window, "selector": selector}))?;
        let texts = found["texts"].as_array().cloned().unwrap_or_default();
        let text = |t: &Value| t.as_str().map(str::to_owned);
        Ok(texts.iter().filter_map(text).collect())
    }

    /// By how many pixels the page is wider than its window.
    pub fn overflow(&mut self, window: &str) -> Result<i64, String> {
        let found = self.run(json!({"cmd": "overflow", "window": window}))?;
        Ok(found["pixels"].as_i64().unwrap_or(0))
    }

    /// Saves what the window shows as an artefact of the test run.
    pub fn screenshot(&mut self, window: &str, name: &str) -> Result<PathBuf, String> {
        let path = paths::artefact(name);
        self.run(json!({"cmd": "screenshot", "window": window, "path": path}))?;
        Ok(path)
    }

    /// Uncaught exceptions of the pages.
    pub fn page_errors(&self) -> Vec<Value> {
        let events = self.driver.events().into_iter();
        events.filter(|event| event["ev"] == "pageerror").collect()
    }

    fn run(&mut self, command: Value) -> Result<Value, String> {
        let shown = command.to_string();
        let done = self.driver.call(command);
        done.map_err(|refusal| format!("{shown}: {refusal}"))
    }
}
