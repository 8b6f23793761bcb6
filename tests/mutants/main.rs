//! Writes all mutants of some files into them at once, each behind a switch: `mutants FILE...`. Prints a line for each mutant:
//! its number, file and line, and what it changes. So a crate is compiled once, and its tests run once for each mutant.
//!
//! Mutated are: comparisons (negated, and moved by one), `&&` and `||` (exchanged), `!` (left out), conditions of `if` and
//! `while` and guards (negated), questions such as `is_some` and `contains` (negated), whole numbers (one larger), statements
//! that are called for their effect (left out), and functions that only succeed or fail, or may find nothing (they do at once).

use std::process::ExitCode;

use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::visit_mut::{VisitMut, visit_expr_mut, visit_impl_item_fn_mut, visit_item_fn_mut, visit_stmt_mut};
use syn::{Attribute, BinOp, Block, Expr, Item, Lit, ReturnType, Stmt, UnOp, parse_quote};

struct Mutator {
    file: String,
    next: u32,
    /// The function that it is in
    function: String,
}

fn main() -> ExitCode {
    let mut next = 1;
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).expect("a file");
        let mut syntax = match syn::parse_file(&text) {
            Ok(syntax) => syntax,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let mut mutator = Mutator { file: file.clone(), next, function: String::new() };
        mutator.visit_file_mut(&mut syntax);
        next = mutator.next;
        std::fs::write(&file, syntax.into_token_stream().to_string()).expect("written");
    }
    ExitCode::SUCCESS
}

impl Mutator {
    /// The number of a mutant that changes what is at `at`.
    fn mutant(&mut self, at: &impl Spanned, before: &impl ToTokens, what: &str) -> u32 {
        let number = self.next;
        self.next += 1;
        let line = at.span().start().line;
        let before: String = before.to_token_stream().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let before: String = before.chars().take(120).collect();
        println!("{number}\t{}:{line}\t{}: {before}: {what}", self.file, self.function);
        number
    }

    /// Negates a condition that is mutated in no other way.
    fn condition(&mut self, condition: &mut Expr) {
        let before = condition.clone();
        self.visit_expr_mut(condition);
        if *condition == before && !has_let(&before) {
            let number = self.mutant(&before, &before, "negated");
            *condition = parse_quote!(((#before) ^ crate::mutants_switch::on(#number)));
        }
    }

    fn first(&mut self, block: &mut Block, output: &ReturnType) {
        let ReturnType::Type(_, kind) = output else { return };
        let kind = kind.to_token_stream().to_string();
        let value: Expr = if kind.starts_with("Result < () ,") {
            parse_quote!(Ok(()))
        } else if kind.starts_with("Option <") {
            parse_quote!(None)
        } else {
            return;
        };
        let number = self.mutant(block, &value, "at once");
        block.stmts.insert(0, parse_quote!(if crate::mutants_switch::on(#number) { return #value; }));
    }
}

/// Conditions of `if let` and their chains stay as they are.
fn has_let(expr: &Expr) -> bool {
    struct Finder(bool);
    impl<'a> Visit<'a> for Finder {
        fn visit_expr_let(&mut self, _: &'a syn::ExprLet) {
            self.0 = true;
        }
        fn visit_expr_closure(&mut self, _: &'a syn::ExprClosure) {}
        fn visit_block(&mut self, _: &'a Block) {}
    }
    let mut finder = Finder(false);
    finder.visit_expr(expr);
    finder.0
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.to_token_stream().to_string();
        text.contains("cfg (test)") || text.contains("cfg (fuzzing)") || text.contains("# [test]")
    })
}

const QUESTIONS: [&str; 14] = [
    "is_some",
    "is_none",
    "is_ok",
    "is_err",
    "is_empty",
    "contains",
    "starts_with",
    "ends_with",
    "any",
    "all",
    "is_some_and",
    "is_none_or",
    "is_ok_and",
    "is_ipv6",
];

impl VisitMut for Mutator {
    fn visit_item_mut(&mut self, item: &mut Item) {
        let attributes = match item {
            Item::Mod(item) => item.attrs.clone(),
            Item::Fn(item) => item.attrs.clone(),
            Item::Impl(item) => item.attrs.clone(),
            // The compiler evaluates these.
            Item::Const(_) | Item::Static(_) | Item::Macro(_) | Item::Enum(_) | Item::Struct(_) | Item::Type(_) => {
                return;
            }
            _ => Vec::new(),
        };
        if !is_of_tests(&attributes) {
            syn::visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_item_fn_mut(&mut self, function: &mut syn::ItemFn) {
        if function.sig.constness.is_none() && !is_of_tests(&function.attrs) {
            self.function = function.sig.ident.to_string();
            visit_item_fn_mut(self, function);
            self.first(&mut function.block, &function.sig.output);
        }
    }

    fn visit_impl_item_mut(&mut self, item: &mut syn::ImplItem) {
        if !matches!(item, syn::ImplItem::Const(_)) {
            syn::visit_mut::visit_impl_item_mut(self, item);
        }
    }

    fn visit_impl_item_fn_mut(&mut self, function: &mut syn::ImplItemFn) {
        if function.sig.constness.is_none() && !is_of_tests(&function.attrs) {
            self.function = function.sig.ident.to_string();
            visit_impl_item_fn_mut(self, function);
            self.first(&mut function.block, &function.sig.output);
        }
    }

    fn visit_type_mut(&mut self, _: &mut syn::Type) {}
    fn visit_angle_bracketed_generic_arguments_mut(&mut self, _: &mut syn::AngleBracketedGenericArguments) {}
    fn visit_pat_mut(&mut self, _: &mut syn::Pat) {}
    fn visit_macro_mut(&mut self, _: &mut syn::Macro) {}
    fn visit_attribute_mut(&mut self, _: &mut Attribute) {}

    fn visit_stmt_mut(&mut self, stmt: &mut Stmt) {
        let (before, at) = (stmt.clone(), stmt.clone());
        if let Stmt::Local(local) = stmt
            && matches!(&local.init, Some(init) if matches!(*init.expr, Expr::Lit(_)))
            && local.pat.to_token_stream().to_string().starts_with("_")
        {
            return;
        }
        if matches!(stmt, Stmt::Item(Item::Const(_) | Item::Static(_))) {
            return;
        }
        visit_stmt_mut(self, stmt);
        if let Stmt::Expr(expr, Some(_)) = stmt
            && matches!(expr, Expr::MethodCall(_) | Expr::Call(_) | Expr::Try(_) | Expr::Binary(_))
        {
            let number = self.mutant(&at, &before, "left out");
            let old = stmt.clone();
            *stmt = parse_quote!(if !crate::mutants_switch::on(#number) { #old });
        }
    }

    fn visit_expr_if_mut(&mut self, expr: &mut syn::ExprIf) {
        self.condition(&mut expr.cond);
        self.visit_block_mut(&mut expr.then_branch);
        if let Some((_, other)) = &mut expr.else_branch {
            self.visit_expr_mut(other);
        }
    }

    fn visit_arm_mut(&mut self, arm: &mut syn::Arm) {
        if let Some((_, guard)) = &mut arm.guard {
            self.condition(guard);
        }
        self.visit_expr_mut(&mut arm.body);
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        // Lengths of arrays are evaluated by the compiler.
        if let Expr::Repeat(repeat) = expr {
            return self.visit_expr_mut(&mut repeat.expr);
        }
        let before = expr.clone();
        visit_expr_mut(self, expr);
        let switch = quote!(crate::mutants_switch);
        match expr {
            Expr::Binary(binary) if !has_let(&before) => {
                let (left, right) = (binary.left.clone(), binary.right.clone());
                let helper = match binary.op {
                    BinOp::Lt(_) => quote!(lt),
                    BinOp::Le(_) => quote!(le),
                    BinOp::Gt(_) => quote!(gt),
                    BinOp::Ge(_) => quote!(ge),
                    BinOp::Eq(_) | BinOp::Ne(_) => {
                        let number = self.mutant(&before, &before, "negated");
                        let old = expr.clone();
                        *expr = parse_quote!(((#old) ^ #switch::on(#number)));
                        return;
                    }
                    BinOp::And(_) => {
                        let number = self.mutant(&before, &before, "&& to ||");
                        *expr = parse_quote!({ let left = #left; if left != #switch::on(#number) { #right } else { left } });
                        return;
                    }
                    BinOp::Or(_) => {
                        let number = self.mutant(&before, &before, "|| to &&");
                        *expr = parse_quote!({ let left = #left; if left == #switch::on(#number) { #right } else { left } });
                        return;
                    }
                    _ => return,
                };
                let negated = self.mutant(&before, &before, "negated");
                let moved = self.mutant(&before, &before, "moved by one");
                *expr = parse_quote!((#switch::#helper(#moved, &(#left), &(#right)) ^ #switch::on(#negated)));
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let number = self.mutant(&before, &before, "without !");
                let value = unary.expr.clone();
                *expr = parse_quote!(#switch::not(#number, #value));
            }
            Expr::MethodCall(call) if QUESTIONS.contains(&call.method.to_string().as_str()) => {
                let number = self.mutant(&before, &before, "negated");
                let old = expr.clone();
                *expr = parse_quote!(((#old) ^ #switch::on(#number)));
            }
            Expr::Lit(lit) => {
                if let Lit::Int(value) = &lit.lit {
                    let number = self.mutant(&before, &before, "one more");
                    let value = value.clone();
                    *expr = parse_quote!(#switch::number(#number, #value));
                }
            }
            _ => {}
        }
    }
}
