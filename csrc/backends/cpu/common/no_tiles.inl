// In place of tiles.inl, for variants without tile registers.
static constexpr decltype(Kernels::lay_out_row) lay_out_row = nullptr;
