use super::{stages::Piece, *};

impl Parser {
    /// A query, or a part of one whose operators bind at least so tightly.
    pub(super) fn expression(&mut self, least: u8) -> Parsed<Expr> {
        self.nested(|parser| {
            let mut left = parser.operand()?;
            while let Some((op, binds)) = parser.operator() {
                if binds < least {
                    break;
                }
                if left.is_log() {
                    return parser.fail(format!("unexpected type for left leg of binary operation ({})", op.symbol()));
                }
                parser.operates()?;
                parser.take();
                let (to_bool, matching) = parser.modifiers()?;
                // A power binds to the right.
                let right = parser.expression(if op == BinaryOp::Power { binds } else { binds + 1 })?;
                if right.is_log() {
                    return parser.fail(format!("unexpected type for right leg of binary operation ({})", op.symbol()));
                }
                let sets = matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless);
                let scalar = |expr: &Expr| matches!(expr, Expr::Number(_));
                if sets && (scalar(&left) || scalar(&right)) {
                    return parser
                        .fail(format!("unexpected literal for a leg of logical/set binary operation ({})", op.symbol()));
                }
                left = Expr::Binary(Box::new(Binary { op, left, right, to_bool, matching }));
            }
            Ok(left)
        })
    }

    fn operator(&self) -> Option<(BinaryOp, u8)> {
        use Comparison::*;
        Some(match self.peek() {
            Token::Identifier(word) => match word.as_str() {
                "or" => (BinaryOp::Or, 1),
                "and" => (BinaryOp::And, 2),
                "unless" => (BinaryOp::Unless, 2),
                _ => return None,
            },
            Token::Symbol(symbol) => match *symbol {
                "==" => (BinaryOp::Compare(Equal), 3),
                "!=" => (BinaryOp::Compare(NotEqual), 3),
                ">" => (BinaryOp::Compare(Greater), 3),
                ">=" => (BinaryOp::Compare(GreaterOrEqual), 3),
                "<" => (BinaryOp::Compare(Less), 3),
                "<=" => (BinaryOp::Compare(LessOrEqual), 3),
                "+" => (BinaryOp::Add, 4),
                "-" => (BinaryOp::Subtract, 4),
                "*" => (BinaryOp::Multiply, 5),
                "/" => (BinaryOp::Divide, 5),
                "%" => (BinaryOp::Modulo, 5),
                "^" => (BinaryOp::Power, 6),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn modifiers(&mut self) -> Parsed<(bool, Matching)> {
        let to_bool = self.accept_word("bool");
        let mut matching = Matching::default();
        let on = self.is_word("on");
        if on || self.is_word("ignoring") {
            self.take();
            matching.on = on;
            matching.labels = self.names()?;
            let left = self.is_word("group_left");
            if left || self.is_word("group_right") {
                self.take();
                let include = if self.is("(") { self.names()? } else { Vec::new() };
                matching.group = Some(Group { left, include });
            }
        }
        Ok((to_bool, matching))
    }

    fn operand(&mut self) -> Parsed<Expr> {
        match self.peek().clone() {
            Token::Symbol("{") => self.log().map(Expr::Log),
            Token::Symbol("(") => {
                self.take();
                let inner = self.expression(0)?;
                self.expect(")")?;
                let Expr::Log(mut log) = inner else { return Ok(inner) };
                self.more_stages(&mut log)?;
                Ok(Expr::Log(log))
            }
            Token::Symbol("+" | "-") | Token::Number(_) => self.number().map(Expr::Number),
            Token::Identifier(word) => self.call(&word),
            _ => self.unexpected(""),
        }
    }

    fn log(&mut self) -> Parsed<LogExpr> {
        let mut log = LogExpr { matchers: self.selector()?, stages: Vec::new() };
        self.more_stages(&mut log)?;
        Ok(log)
    }

    fn more_stages(&mut self, log: &mut LogExpr) -> Parsed<()> {
        while let Some(piece) = self.piece()? {
            match piece {
                Piece::Stage(stage) => log.stages.push(stage),
                Piece::Unwrap(_) => return self.unexpected(""),
            }
        }
        Ok(())
    }

    fn call(&mut self, word: &str) -> Parsed<Expr> {
        if let Some(op) = range_op(word) {
            self.take();
            return self.range_aggregation(op, word).map(|range| Expr::Range(Box::new(range)));
        }
        if let Some(op) = aggregation_op(word) {
            self.take();
            return self.aggregation(op, word).map(|aggregation| Expr::Aggregation(Box::new(aggregation)));
        }
        match word {
            "vector" => {
                self.take();
                self.expect("(")?;
                let value = self.number()?;
                self.expect(")")?;
                Ok(Expr::Vector(value))
            }
            "label_replace" => {
                self.take();
                self.label_replace().map(|replace| Expr::LabelReplace(Box::new(replace)))
            }
            _ => self.unexpected(""),
        }
    }

    fn label_replace(&mut self) -> Parsed<LabelReplace> {
        self.expect("(")?;
        let expr = self.expression(0)?;
        let mut next = || {
            self.expect(",")?;
            self.string()
        };
        let (destination, replacement, source, pattern) = (next()?, next()?, next()?, next()?);
        self.expect(")")?;
        if expr.is_log() {
            return self.fail("label_replace needs a metric query");
        }
        let regex = whole(&pattern).or_else(|error| self.fail(regex_message(&error)))?;
        Ok(LabelReplace { expr, destination, replacement, source, regex })
    }

    fn grouping(&mut self) -> Parsed<Option<Grouping>> {
        let without = self.is_word("without");
        if !without && !self.is_word("by") {
            return Ok(None);
        }
        self.take();
        Ok(Some(Grouping { without, labels: self.names()? }))
    }

    fn aggregation(&mut self, op: AggregationOp, word: &str) -> Parsed<Aggregation> {
        let before = self.grouping()?;
        self.expect("(")?;
        let mut parameter = 0;
        if matches!(op, AggregationOp::Topk | AggregationOp::Bottomk) {
            let number = self.number()?;
            if number < 1.0 {
                return self.fail(format!("invalid parameter (must be greater than 0) {word}({number}"));
            }
            parameter = number as usize;
            self.expect(",")?;
        }
        let expr = self.expression(0)?;
        self.expect(")")?;
        if expr.is_log() {
            return self.unexpected("");
        }
        let after = if before.is_none() { self.grouping()? } else { None };
        let grouping = before.or(after);
        if matches!(op, AggregationOp::Sort | AggregationOp::SortDesc) && grouping.is_some() {
            return self.fail(format!("grouping not allowed for {word} aggregation"));
        }
        Ok(Aggregation { op, expr, parameter, grouping: grouping.unwrap_or(Grouping { without: false, labels: Vec::new() }) })
    }

    fn range_aggregation(&mut self, op: RangeOp, word: &str) -> Parsed<RangeAggregation> {
        let before = self.grouping()?;
        self.expect("(")?;
        let mut parameter = 0.0;
        if op == RangeOp::Quantile {
            parameter = self.number()?;
            self.expect(",")?;
        }
        let range = self.log_range()?;
        self.expect(")")?;
        let grouping = match before {
            Some(grouping) => Some(grouping),
            None => self.grouping()?,
        };
        let unwraps = range.unwrap.is_some();
        match op {
            RangeOp::Count | RangeOp::Bytes | RangeOp::BytesRate if unwraps => {
                return self.fail(format!("invalid aggregation {word} with unwrap"));
            }
            RangeOp::Rate | RangeOp::Count | RangeOp::Bytes | RangeOp::BytesRate | RangeOp::Absent => {}
            _ if !unwraps => return self.fail(format!("invalid aggregation {word} without unwrap")),
            _ => {}
        }
        let groups = matches!(
            op,
            RangeOp::Avg
                | RangeOp::Stddev
                | RangeOp::Stdvar
                | RangeOp::Quantile
                | RangeOp::Max
                | RangeOp::Min
                | RangeOp::First
                | RangeOp::Last
        );
        if grouping.is_some() && !groups {
            return self.fail(format!("grouping not allowed for {word} aggregation"));
        }
        Ok(RangeAggregation { op, parameter, grouping, ..range })
    }

    /// `{…} | … [5m] offset 1h`; the range may also stand right after the selector.
    fn log_range(&mut self) -> Parsed<RangeAggregation> {
        if self.accept("(") {
            let mut inner = self.nested(Self::log_range_open)?;
            self.expect(")")?;
            self.range_rest(&mut inner)?;
            return self.complete(inner);
        }
        let open = self.log_range_open()?;
        self.complete(open)
    }

    fn complete(&self, range: RangeAggregation) -> Parsed<RangeAggregation> {
        if range.range > 0 { Ok(range) } else { self.unexpected("[") }
    }

    fn log_range_open(&mut self) -> Parsed<RangeAggregation> {
        if self.accept("(") {
            let mut inner = self.nested(Self::log_range_open)?;
            self.expect(")")?;
            self.range_rest(&mut inner)?;
            return Ok(inner);
        }
        let log = LogExpr { matchers: self.selector()?, stages: Vec::new() };
        let mut range =
            RangeAggregation { op: RangeOp::Count, log, unwrap: None, range: 0, offset: 0, parameter: 0.0, grouping: None };
        self.range_rest(&mut range)?;
        Ok(range)
    }

    fn range_rest(&mut self, range: &mut RangeAggregation) -> Parsed<()> {
        loop {
            if self.is("[") && range.range == 0 {
                self.take();
                range.range = self.duration()?;
                self.expect("]")?;
                if self.accept_word("offset") {
                    let negative = self.accept("-");
                    let offset = self.duration()?;
                    range.offset = if negative { -offset } else { offset };
                }
                continue;
            }
            match self.piece()? {
                Some(Piece::Stage(_)) if range.unwrap.is_some() => return self.unexpected(""),
                Some(Piece::Stage(stage)) => range.log.stages.push(stage),
                Some(Piece::Unwrap(unwrap)) => range.unwrap = Some(unwrap),
                None => return Ok(()),
            }
        }
    }
}

impl BinaryOp {
    fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Unless => "unless",
            Self::Compare(Comparison::Equal) => "==",
            Self::Compare(Comparison::NotEqual) => "!=",
            Self::Compare(Comparison::Greater) => ">",
            Self::Compare(Comparison::GreaterOrEqual) => ">=",
            Self::Compare(Comparison::Less) => "<",
            Self::Compare(Comparison::LessOrEqual) => "<=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Power => "^",
        }
    }
}

fn range_op(word: &str) -> Option<RangeOp> {
    Some(match word {
        "rate" => RangeOp::Rate,
        "rate_counter" => RangeOp::RateCounter,
        "count_over_time" => RangeOp::Count,
        "bytes_rate" => RangeOp::BytesRate,
        "bytes_over_time" => RangeOp::Bytes,
        "avg_over_time" => RangeOp::Avg,
        "sum_over_time" => RangeOp::Sum,
        "min_over_time" => RangeOp::Min,
        "max_over_time" => RangeOp::Max,
        "stdvar_over_time" => RangeOp::Stdvar,
        "stddev_over_time" => RangeOp::Stddev,
        "quantile_over_time" => RangeOp::Quantile,
        "first_over_time" => RangeOp::First,
        "last_over_time" => RangeOp::Last,
        "absent_over_time" => RangeOp::Absent,
        _ => return None,
    })
}

fn aggregation_op(word: &str) -> Option<AggregationOp> {
    Some(match word {
        "sum" => AggregationOp::Sum,
        "avg" => AggregationOp::Avg,
        "max" => AggregationOp::Max,
        "min" => AggregationOp::Min,
        "count" => AggregationOp::Count,
        "stddev" => AggregationOp::Stddev,
        "stdvar" => AggregationOp::Stdvar,
        "topk" => AggregationOp::Topk,
        "bottomk" => AggregationOp::Bottomk,
        "sort" => AggregationOp::Sort,
        "sort_desc" => AggregationOp::SortDesc,
        _ => return None,
    })
}
