//! Draws the screen of `top`.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Cell, Row as TableRow, Table, TableState},
};

use super::screen::{Screen, View};

/// Draws everything.
pub(super) fn screen(frame: &mut Frame<'_>, screen: &Screen) {
    let [top, tabs, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    let summary = match &screen.failure {
        Some(failure) => Line::styled(format!("no answer: {failure}"), tone(2)),
        None => Line::raw(screen.summary()),
    };
    frame.render_widget(summary, top);
    frame.render_widget(Line::raw(place(screen)), tabs);
    let rows = screen.rows();
    let widths = widths(screen.view);
    let heads = screen.view.heads().iter().enumerate().map(|(column, head)| {
        let sign = match screen.sort {
            (by, true) if by == column => " v",
            (by, false) if by == column => " ^",
            _ => "",
        };
        Cell::new(format!("{head}{sign}"))
    });
    let head = TableRow::new(heads).style(Style::new().add_modifier(Modifier::BOLD));
    let lines = rows.iter().map(|row| TableRow::new(row.cells.clone()).style(tone(row.tone)));
    let table = Table::new(lines, widths)
        .header(head)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected((!rows.is_empty()).then_some(screen.selected));
    frame.render_stateful_widget(table, body, &mut state);
    let keys = "q end  Tab view  Enter open  Esc back  s sort  r reverse  / filter  ↑↓ move";
    frame.render_widget(Line::styled(keys, Style::new().add_modifier(Modifier::DIM)), foot);
}

/// Which view, of what, by which filter.
fn place(screen: &Screen) -> String {
    let name = |view: View, name: &str| if view == screen.view { format!("[{name}]") } else { format!(" {name} ") };
    let mut text = [(View::Services, "services"), (View::Endpoints, "endpoints"), (View::Nodes, "nodes")]
        .map(|(view, word)| name(view, word))
        .concat();
    if let Some(of) = &screen.of {
        text.push_str(&format!("  of {of}"));
    }
    if screen.editing || !screen.filter.is_empty() {
        text.push_str(&format!("  /{}{}", screen.filter, if screen.editing { "_" } else { "" }));
    }
    text
}

const fn widths(view: View) -> [Constraint; 7] {
    use Constraint::{Fill, Length, Min};
    match view {
        View::Services => [Min(24), Length(11), Length(10), Length(10), Length(10), Length(10), Fill(1)],
        View::Endpoints => [Min(28), Length(11), Length(10), Length(22), Length(7), Min(16), Fill(1)],
        View::Nodes => [Min(20), Length(10), Length(8), Length(10), Length(22), Length(10), Fill(1)],
    }
}

fn tone(tone: u8) -> Style {
    match tone {
        0 => Style::new(),
        1 => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::cli::top::screen::tests::seen;

    #[test]
    fn rows_heads_and_keys_are_on_the_screen() {
        let mut terminal = Terminal::new(TestBackend::new(110, 9)).unwrap();
        let mut state = Screen::new(seen());
        terminal.draw(|frame| screen(frame, &state)).unwrap();
        let text = terminal.backend().to_string();
        for word in ["a sees 2 of 2 nodes", "[services]", "RATE v", "shop/db", "503 UH x20", "q end"] {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
        state.failed("it is gone");
        terminal.draw(|frame| screen(frame, &state)).unwrap();
        assert!(terminal.backend().to_string().contains("no answer: it is gone"));
    }

    #[test]
    fn a_tiny_terminal_does_no_harm() {
        let mut terminal = Terminal::new(TestBackend::new(3, 2)).unwrap();
        terminal.draw(|frame| screen(frame, &Screen::new(seen()))).unwrap();
    }
}
