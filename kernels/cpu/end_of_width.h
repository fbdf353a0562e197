/* The end of what is included once for each width of vector registers: another may follow. */
#undef PANEL
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
#undef DEEP
#undef INSTRUCTION
