"""What a person reads of records: lines, tables, bars; figures as they are written everywhere."""
