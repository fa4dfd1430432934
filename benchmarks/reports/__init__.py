"""Reports: rows of trials become medians, ratios, tables, promises and plots.

`results` reads rows by variant and length, and has the form of tables and promises; `plots` draws them. scaling.py has
its own, since its rows differ by engine, ranks and documents: `scaling_results`, `scaling_report`, `scaling_plots`.
"""
