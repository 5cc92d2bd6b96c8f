//! What the keys of `gupd top` change: the table, its order, its filter and the selected row.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

/// Maximum characters of a filter.
const MAX_FILTER: usize = 100;

/// Rows that a page key moves by.
const PAGE: usize = 20;

/// Consequence of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOutcome {
    Continue,
    Quit,
}

/// What the user has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TopState {
    /// True for the table of fills.
    pub(super) shows_fills: bool,
    /// Number of times that the next column was chosen.
    pub(super) column: usize,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    /// True while the filter is typed.
    is_typing: bool,
    pub(super) selected: usize,
}

impl TopState {
    pub(super) fn new(shows_fills: bool, filter: String) -> Self {
        Self { shows_fills, filter, ..Self::default() }
    }

    /// Applies a key.
    pub(super) fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> KeyOutcome {
        if modifiers.contains(KeyModifiers::CONTROL) && key == KeyCode::Char('c') {
            return KeyOutcome::Quit;
        }
        if self.is_typing {
            self.type_filter(key);
            return KeyOutcome::Continue;
        }
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return KeyOutcome::Quit,
            KeyCode::Tab => {
                *self = Self {
                    shows_fills: !self.shows_fills,
                    filter: std::mem::take(&mut self.filter),
                    ..Self::default()
                };
            }
            KeyCode::Char('s') => self.column += 1,
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down => self.selected += 1,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            KeyCode::PageDown => self.selected += PAGE,
            KeyCode::Home => self.selected = 0,
            _ => {}
        }
        KeyOutcome::Continue
    }

    /// Keeps the selected row within the table.
    pub(super) fn clamp(&mut self, rows: usize) {
        self.selected = self.selected.min(rows.saturating_sub(1));
    }

    /// Returns the line about the keys.
    pub(super) fn help(&self) -> String {
        if self.is_typing {
            return format!("filter: {}▏ (Enter keeps it, Esc clears it)", self.filter);
        }
        let filter =
            if self.filter.is_empty() { String::new() } else { format!("  filter: {}", self.filter) };
        format!("q quit  Tab clients/fills  s sort  r reverse  / filter{filter}")
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(char) if self.filter.chars().count() < MAX_FILTER && !char.is_control() => {
                self.filter.push(char);
            }
            _ => {}
        }
        self.selected = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut TopState, keys: &[KeyCode]) -> KeyOutcome {
        keys.iter().map(|key| state.press(*key, KeyModifiers::NONE)).last().unwrap()
    }

    #[test]
    fn keys_sort_filter_and_quit() {
        let mut state = TopState::new(false, String::new());
        press(&mut state, &[KeyCode::Char('s'), KeyCode::Char('r'), KeyCode::PageDown, KeyCode::Up]);
        assert_eq!((state.column, state.is_reversed, state.selected), (1, true, PAGE - 1));
        state.clamp(5);
        assert_eq!(state.selected, 4);
        let typed =
            [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Char('x'), KeyCode::Backspace, KeyCode::Enter];
        assert_eq!(press(&mut state, &typed), KeyOutcome::Continue);
        assert_eq!((&*state.filter, state.selected), ("q", 0));
        press(&mut state, &[KeyCode::Tab]);
        assert_eq!((state.shows_fills, state.column, &*state.filter), (true, 0, "q"));
        press(&mut state, &[KeyCode::Char('/'), KeyCode::Esc]);
        assert_eq!(state.filter, "");
        for (key, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(state.clone().press(key, modifiers), KeyOutcome::Quit, "{key:?}");
        }
        press(&mut state, &[KeyCode::Char('/')]);
        assert_eq!(state.press(KeyCode::Char('c'), KeyModifiers::CONTROL), KeyOutcome::Quit);
    }

    #[test]
    fn filter_is_bounded() {
        let mut state = TopState::new(false, String::new());
        press(&mut state, &[KeyCode::Char('/')]);
        press(&mut state, &[KeyCode::Char('é'); 500]);
        assert_eq!(state.filter.chars().count(), MAX_FILTER);
    }
}
