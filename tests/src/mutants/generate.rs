//! Which mutants a source file has: one small change each, as a replacement of bytes, so that all else stays as it is.
//!
//! The file is parsed, not searched, because the same `-` is an operator here and a sign there. Positions are the
//! parser's own. The trap: types, attributes, assertions and tests are code too, and a change there is either no
//! program or no fault, so they are walked around.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, Result};
use proc_macro2::{LineColumn, Span, TokenStream, TokenTree};
use serde::{Deserialize, Serialize};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, BinOp, Block, Expr, FnArg, ImplItemFn, Item, ItemConst, ItemFn, ItemImpl, ItemMacro, ItemMod,
    ItemStatic, Lit, LitInt, Local, Macro, Member, Pat, ReturnType, Signature, Stmt, Type, UnOp,
};

/// One change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    pub id: Id,
    /// Where it is now, from 1. No part of what it is: lines move.
    pub line: usize,
    /// These bytes of the file …
    pub bytes: Range<usize>,
    /// … become these.
    pub replacement: String,
}

/// What a mutant is, wherever its line has moved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// From the root of the checkout.
    pub file: String,
    /// The function around it, or the constant: `Delta::apply_udp`.
    pub function: String,
    /// The line it changes, trimmed.
    pub line: String,
    /// What the line becomes, trimmed; or what was done, where that is more than a line: `without this statement`.
    pub becomes: String,
    /// Which one, from 1, if one function has several that are alike; else 0.
    pub nth: usize,
}

impl Mutant {
    /// The whole file with the change made.
    pub fn apply(&self, source: &str) -> String {
        [&source[..self.bytes.start], &self.replacement, &source[self.bytes.end..]].concat()
    }
}

/// A file's source without the tests in it.
pub fn without_tests(file: &str, source: &str) -> Result<String> {
    let parsed = syn::parse_file(source).with_context(|| format!("{file} is not Rust"))?;
    let mut program = source.to_owned();
    for item in parsed.items.iter().rev() {
        if let Item::Mod(ItemMod { attrs, .. }) = item
            && no_program(attrs)
        {
            program.replace_range(item.span().byte_range(), "");
        }
    }
    Ok(program)
}

/// All mutants of a file, in order.
pub fn mutants(file: &str, source: &str) -> Result<Vec<Mutant>> {
    let parsed = syn::parse_file(source).with_context(|| format!("{file} is not Rust"))?;
    let mut walk = Walk { file, source, path: Vec::new(), found: Vec::new() };
    walk.visit_file(&parsed);
    let mut found = walk.found;
    found.sort_by_key(|m| (m.bytes.start, m.bytes.end));
    // Two ways to the same change are one mutant.
    let mut seen = Vec::new();
    found.retain(|m| {
        let change = (m.bytes.clone(), m.replacement.clone());
        let new = !seen.contains(&change);
        seen.push(change);
        new
    });
    let mut alike: HashMap<Id, usize> = HashMap::new();
    for mutant in &found {
        *alike.entry(mutant.id.clone()).or_default() += 1;
    }
    let mut numbers: HashMap<Id, usize> = HashMap::new();
    for mutant in &mut found {
        if alike[&mutant.id] > 1 {
            let number = numbers.entry(mutant.id.clone()).or_default();
            *number += 1;
            mutant.id.nth = *number;
        }
    }
    Ok(found)
}

/// Macros whose words are no program of ours: they log, assert, or are for the assembler.
const NOT_INTO: [&str; 10] =
    ["asm", "assert", "assert_eq", "assert_ne", "concat", "const_assert", "debug", "format", "matches", "panic"];

/// Fields and names that are easily taken for each other.
const TWINS: [(&str, &str); 3] = [("source", "destination"), ("src_addr", "dst_addr"), ("src", "dst")];

/// Methods that are easily taken for each other, and by which.
const METHODS: [(&str, &str); 7] = [
    ("is_none", "is_some"),
    ("is_some", "is_none"),
    ("wrapping_add", "wrapping_sub"),
    ("wrapping_sub", "wrapping_add"),
    ("wrapping_mul", "wrapping_add"),
    ("apply", "apply_udp"),
    ("apply_udp", "apply"),
];

/// Conversions that do nothing to many a value in a test, and on big-endian machines to all.
const CONVERSIONS: [&str; 2] = ["to_be", "from_be"];

fn twin(name: &str) -> Option<&'static str> {
    TWINS.iter().find_map(|(a, b)| if name == *a { Some(*b) } else { (name == *b).then_some(*a) })
}

struct Walk<'a> {
    file: &'a str,
    source: &'a str,
    path: Vec<String>,
    found: Vec<Mutant>,
}

impl Walk<'_> {
    fn within(&mut self, name: String, walk: impl FnOnce(&mut Self)) {
        self.path.push(name);
        walk(self);
        self.path.pop();
    }

    fn text(&self, span: Span) -> &str {
        &self.source[span.byte_range()]
    }

    fn add(&mut self, at: LineColumn, bytes: Range<usize>, replacement: String, becomes: String) {
        if self.source[bytes.clone()] == replacement {
            return;
        }
        let line = self.source.lines().nth(at.line - 1).unwrap_or_default().trim().to_owned();
        let id = Id { file: self.file.to_owned(), function: self.path.join("::"), line, becomes, nth: 0 };
        self.found.push(Mutant { id, line: at.line, bytes, replacement });
    }

    /// A change within one line, told by what the line becomes.
    fn swap(&mut self, span: Span, replacement: impl Into<String>) {
        let (bytes, replacement) = (span.byte_range(), replacement.into());
        let start = self.source[..bytes.start].rfind('\n').map_or(0, |at| at + 1);
        let end = self.source[bytes.end..].find('\n').map_or(self.source.len(), |at| bytes.end + at);
        let line = [&self.source[start..bytes.start], &replacement, &self.source[bytes.end..end]].concat();
        let line = line.lines().next().unwrap_or_default().trim().to_owned();
        self.add(span.start(), bytes, replacement, line);
    }

    /// A change of a whole part, told in words.
    fn part(&mut self, span: Span, replacement: &str, words: &str) {
        self.add(span.start(), span.byte_range(), replacement.to_owned(), words.to_owned());
    }

    fn integer(&mut self, literal: &LitInt) {
        let Ok(value) = literal.base10_parse::<u64>() else { return };
        let written = literal.to_string();
        let mut others = vec![value.checked_add(1), value.checked_sub(1)];
        let radix = written.get(..2).filter(|prefix| ["0x", "0b"].contains(prefix));
        if radix.is_some() && value > 1 {
            // A mask that is a bit too short.
            others.push(Some(value & !(1 << value.ilog2())));
        }
        for other in others.into_iter().flatten() {
            let digits = match radix {
                Some("0x") => format!("{other:#x}"),
                Some("0b") => format!("{other:#b}"),
                _ => other.to_string(),
            };
            let underscore = if literal.suffix().is_empty() { "" } else { "_" };
            self.swap(literal.span(), format!("{digits}{underscore}{}", literal.suffix()));
        }
    }

    /// Numbers and names in what a macro is given, or expands to.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            let before = |n: usize| i.checked_sub(n).map(|at| tokens[at].to_string()).unwrap_or_default();
            match token {
                TokenTree::Group(group) => {
                    if before(1) != "!" || !NOT_INTO.contains(&before(2).as_str()) {
                        self.tokens(group.stream());
                    }
                }
                TokenTree::Literal(literal) => {
                    if let Lit::Int(literal) = Lit::new(literal.clone()) {
                        self.integer(&literal);
                    }
                }
                TokenTree::Ident(name) => {
                    // `$source:expr` and `source: …` name a thing; the rest use one.
                    let names = tokens.get(i + 1).is_some_and(|next| next.to_string() == ":");
                    if let Some(twin) = twin(&name.to_string()).filter(|_| !names) {
                        self.swap(name.span(), twin);
                    }
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn condition(&mut self, condition: &Expr, statement: bool) {
        if matches!(condition, Expr::Let(_)) || contains_let(condition) {
            return;
        }
        let span = condition.span();
        self.part(span, "true", "where the condition is always true");
        // Without an `else`, never is the same as without the statement.
        if !statement {
            self.part(span, "false", "where the condition is never true");
        }
        // Comparisons and `!` are turned around already.
        if !matches!(condition, Expr::Unary(_) | Expr::Binary(_)) {
            let negated = format!("!({})", self.text(span));
            self.part(span, &negated, "where the condition is turned around");
        }
    }

    fn body(&mut self, signature: &Signature, block: &Block) {
        let by_value = matches!(signature.inputs.first(), Some(FnArg::Receiver(r)) if r.reference.is_none());
        let values = match &signature.output {
            ReturnType::Default => vec![String::new()],
            ReturnType::Type(_, output) => values(output, by_value),
        };
        if block.stmts.is_empty() {
            return;
        }
        for value in values {
            let words = if value.is_empty() { "does nothing".to_owned() } else { format!("is always {value}") };
            let replacement = format!("{{ {value} }}");
            self.add(signature.fn_token.span().start(), block.span().byte_range(), replacement, words);
        }
    }

    fn function(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        if no_program(attributes) {
            return;
        }
        self.within(signature.ident.to_string(), |walk| {
            walk.body(signature, block);
            walk.visit_block(block);
        });
    }
}

/// What a function of this type could return instead.
fn values(output: &Type, by_value: bool) -> Vec<String> {
    let strings = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect();
    match output {
        Type::Tuple(tuple) if tuple.elems.is_empty() => vec!["()".to_owned()],
        Type::Array(array) => {
            values(&array.elem, false).into_iter().map(|v| format!("[{v}; {}]", quote_len(&array.len))).collect()
        }
        Type::Reference(r) if matches!(&*r.elem, Type::Path(p) if p.path.is_ident("str")) => {
            strings(&["\"\"", "\"xyzzy\""])
        }
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return Vec::new() };
            let inner = || match &last.arguments {
                syn::PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|a| match a {
                    syn::GenericArgument::Type(inner) => Some(values(inner, false)),
                    _ => None,
                }),
                _ => None,
            };
            let wrapped =
                |name: &str| inner().unwrap_or_default().into_iter().map(|v| format!("{name}({v})")).collect();
            match last.ident.to_string().as_str() {
                "bool" => strings(&["true", "false"]),
                "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => strings(&["0", "1"]),
                "Option" => [strings(&["None"]), wrapped("Some")].concat(),
                "Result" => wrapped("Ok"),
                "Self" | "Delta" if by_value => strings(&["self"]),
                "Delta" => strings(&["delta"]),
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

fn quote_len(len: &Expr) -> String {
    match len {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(n) => n.to_string(),
            _ => "0".to_owned(),
        },
        Expr::Path(path) => path.path.get_ident().map_or_else(|| "0".to_owned(), ToString::to_string),
        _ => "0".to_owned(),
    }
}

fn contains_let(condition: &Expr) -> bool {
    match condition {
        Expr::Let(_) => true,
        Expr::Binary(binary) => contains_let(&binary.left) || contains_let(&binary.right),
        _ => false,
    }
}

/// Tests, and the function that panics would end in.
fn no_program(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test")
            || path.is_ident("panic_handler")
            || (path.is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test")))
    })
}

fn other_operators(operator: &BinOp) -> &'static [&'static str] {
    match operator {
        BinOp::Add(_) => &["-"],
        BinOp::Sub(_) | BinOp::Mul(_) => &["+"],
        BinOp::Div(_) | BinOp::Rem(_) => &["*"],
        BinOp::BitAnd(_) | BinOp::BitXor(_) => &["|"],
        BinOp::BitOr(_) => &["&"],
        BinOp::Shl(_) => &[">>"],
        BinOp::Shr(_) => &["<<"],
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::Lt(_) => &["<=", "=="],
        BinOp::Le(_) => &["<", "=="],
        BinOp::Gt(_) => &[">=", "=="],
        BinOp::Ge(_) => &[">", "=="],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::AddAssign(_) => &["-=", "="],
        BinOp::SubAssign(_) => &["+=", "="],
        BinOp::BitOrAssign(_) => &["&=", "="],
        BinOp::BitXorAssign(_) => &["|=", "="],
        BinOp::BitAndAssign(_) => &["|=", "="],
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_type(&mut self, _: &'ast Type) {}

    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(ItemMod { attrs, .. }) if no_program(attrs) => {}
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_item_fn(&mut self, f: &'ast ItemFn) {
        self.function(&f.attrs, &f.sig, &f.block);
    }

    fn visit_impl_item_fn(&mut self, f: &'ast ImplItemFn) {
        self.function(&f.attrs, &f.sig, &f.block);
    }

    fn visit_item_impl(&mut self, i: &'ast ItemImpl) {
        let name = match &*i.self_ty {
            Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default(),
            _ => String::new(),
        };
        self.within(name, |walk| visit::visit_item_impl(walk, i));
    }

    fn visit_item_const(&mut self, c: &'ast ItemConst) {
        self.within(c.ident.to_string(), |walk| walk.visit_expr(&c.expr));
    }

    fn visit_item_static(&mut self, s: &'ast ItemStatic) {
        self.within(s.ident.to_string(), |walk| walk.visit_expr(&s.expr));
    }

    fn visit_item_enum(&mut self, e: &'ast syn::ItemEnum) {
        self.within(e.ident.to_string(), |walk| visit::visit_item_enum(walk, e));
    }

    fn visit_item_macro(&mut self, m: &'ast ItemMacro) {
        let name = m.ident.as_ref().map(ToString::to_string);
        match name {
            Some(name) => self.within(name, |walk| walk.visit_macro(&m.mac)),
            None => self.visit_macro(&m.mac),
        }
    }

    fn visit_macro(&mut self, m: &'ast Macro) {
        let name = m.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default();
        if !NOT_INTO.contains(&name.as_str()) {
            self.tokens(m.tokens.clone());
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        for (i, statement) in block.stmts.iter().enumerate() {
            let last = i + 1 == block.stmts.len();
            let goes = match statement {
                Stmt::Expr(Expr::Return(_) | Expr::Break(_) | Expr::Continue(_), _) => false,
                Stmt::Expr(_, Some(_)) => true,
                // The value of an `if` without an `else` is nothing.
                Stmt::Expr(Expr::If(e), None) => !last || e.else_branch.is_none(),
                Stmt::Expr(Expr::ForLoop(_) | Expr::While(_), None) => true,
                Stmt::Expr(Expr::Block(_) | Expr::Unsafe(_) | Expr::Match(_), None) => !last,
                _ => false,
            };
            if goes {
                self.part(statement.span(), "", "without this statement");
            }
        }
        visit::visit_block(self, block);
    }

    fn visit_local(&mut self, local: &'ast Local) {
        // The pattern names things; only what they are made of can be wrong.
        if let Some(init) = &local.init {
            self.visit_expr(&init.expr);
            if let Some((_, diverge)) = &init.diverge {
                self.visit_expr(diverge);
            }
        }
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        for other in other_operators(&binary.op) {
            self.swap(binary.op.span(), *other);
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        if matches!(unary.op, UnOp::Not(_) | UnOp::Neg(_)) {
            self.swap(unary.op.span(), "");
        }
        visit::visit_expr_unary(self, unary);
    }

    fn visit_expr_if(&mut self, e: &'ast syn::ExprIf) {
        self.condition(&e.cond, e.else_branch.is_none());
        visit::visit_expr_if(self, e);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.condition(guard, false);
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_match(&mut self, e: &'ast syn::ExprMatch) {
        let all = |arm: &Arm| arm.guard.is_none() && takes_all(&arm.pat);
        if let Some(end) = e.arms.iter().position(all) {
            for arm in &e.arms[..end] {
                self.part(arm.span(), "", "without this arm");
            }
        }
        visit::visit_expr_match(self, e);
    }

    fn visit_expr_repeat(&mut self, e: &'ast syn::ExprRepeat) {
        // Another length is another type.
        self.visit_expr(&e.expr);
    }

    fn visit_lit(&mut self, literal: &'ast Lit) {
        match literal {
            Lit::Int(n) => self.integer(n),
            Lit::Bool(b) => self.swap(b.span, if b.value { "false" } else { "true" }),
            _ => {}
        }
    }

    fn visit_expr_field(&mut self, e: &'ast syn::ExprField) {
        if let Member::Named(name) = &e.member
            && let Some(twin) = twin(&name.to_string())
        {
            self.swap(name.span(), twin);
        }
        visit::visit_expr_field(self, e);
    }

    fn visit_expr_method_call(&mut self, e: &'ast syn::ExprMethodCall) {
        let name = e.method.to_string();
        if let Some((_, other)) = METHODS.iter().find(|(method, _)| name == *method) {
            self.swap(e.method.span(), *other);
        }
        if CONVERSIONS.contains(&name.as_str()) && e.span().start().line == e.span().end().line {
            let receiver = self.text(e.receiver.span()).to_owned();
            self.swap(e.span(), receiver);
        }
        visit::visit_expr_method_call(self, e);
    }

    fn visit_expr_call(&mut self, e: &'ast syn::ExprCall) {
        if let Expr::Path(path) = &*e.func
            && path.path.segments.last().is_some_and(|s| CONVERSIONS.contains(&s.ident.to_string().as_str()))
            && e.span().start().line == e.span().end().line
            && let Some(argument) = e.args.first()
        {
            let argument = self.text(argument.span()).to_owned();
            self.swap(e.span(), argument);
        }
        visit::visit_expr_call(self, e);
    }
}

fn takes_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(name) => {
            name.subpat.is_none() && name.ident.to_string().starts_with(|c: char| c.is_ascii_lowercase())
        }
        Pat::Tuple(tuple) => tuple.elems.iter().all(takes_all),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(source: &str) -> Vec<String> {
        let found = mutants("a.rs", source).expect("Rust");
        found.into_iter().map(|m| m.apply(source)).collect()
    }

    #[test]
    fn each_mutant_changes_one_thing_and_leaves_the_rest_as_written() {
        assert_eq!(
            changes("fn f(a: u8) -> bool { a  <  0x14 } // kept"),
            [
                "fn f(a: u8) -> bool { true } // kept",
                "fn f(a: u8) -> bool { false } // kept",
                "fn f(a: u8) -> bool { a  <=  0x14 } // kept",
                "fn f(a: u8) -> bool { a  ==  0x14 } // kept",
                "fn f(a: u8) -> bool { a  <  0x15 } // kept",
                "fn f(a: u8) -> bool { a  <  0x13 } // kept",
                "fn f(a: u8) -> bool { a  <  0x4 } // kept",
            ]
        );
        assert_eq!(
            changes("fn f() { if a() { b(); } }"),
            [
                "fn f() {  }",
                "fn f() {  }",
                "fn f() { if true { b(); } }",
                "fn f() { if !(a()) { b(); } }",
                "fn f() { if a() {  } }",
            ]
        );
        assert_eq!(
            changes("const A: u16 = 1_u16.to_be();"),
            ["const A: u16 = 2_u16.to_be();", "const A: u16 = 0_u16.to_be();", "const A: u16 = 1_u16;"]
        );
        assert_eq!(
            changes("fn f() { match a { Some(b) if c => d(b), _ => e() } }"),
            [
                "fn f() {  }",
                "fn f() { match a {  _ => e() } }",
                "fn f() { match a { Some(b) if true => d(b), _ => e() } }",
                "fn f() { match a { Some(b) if false => d(b), _ => e() } }",
                "fn f() { match a { Some(b) if !(c) => d(b), _ => e() } }",
            ]
        );
    }

    #[test]
    fn types_attributes_assertions_and_tests_are_left_alone() {
        let left = "#[repr(align(8))] struct A { a: [u8; 5] } const _: () = { assert!(1 == 1); }; \
                    #[cfg(test)] mod tests { fn f() -> u8 { 1 + 1 } } #[test] fn g() { h(1); }";
        assert_eq!(changes(left), <[String; 0]>::default());
    }

    #[test]
    fn a_program_without_its_tests_is_the_same_whatever_they_are() {
        let program = |tests: &str| without_tests("a.rs", &format!("const A: u8 = 1;{tests}")).expect("Rust");
        assert_eq!(program(" #[cfg(test)] mod tests { const B: u8 = 2; }").trim_end(), program(""));
        assert_eq!(program("#[cfg(test)] mod tests;"), program(""));
    }

    #[test]
    fn numbers_and_names_in_macros_count() {
        assert_eq!(
            changes("fn f() -> X { y!(1, offset_of!(H, src_addr)) }"),
            [
                "fn f() -> X { y!(2, offset_of!(H, src_addr)) }",
                "fn f() -> X { y!(0, offset_of!(H, src_addr)) }",
                "fn f() -> X { y!(1, offset_of!(H, dst_addr)) }",
            ]
        );
    }

    #[test]
    fn a_mutant_is_known_by_its_words_and_not_by_its_place() {
        let source = "fn f() {\n    c.p += 1;\n    c.p += 1;\n}\n";
        let moved = ["// a line more\n\n", source].concat();
        let ids = |source: &str| mutants("a.rs", source).expect("Rust").into_iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!(ids(source), ids(&moved));
        let alike: Vec<Id> = ids(source).into_iter().filter(|id| id.becomes == "c.p -= 1;").collect();
        assert_eq!(alike.iter().map(|id| id.nth).collect::<Vec<_>>(), [1, 2]);
        let mut unique = ids(source);
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids(source).len());
    }
}
