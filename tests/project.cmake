# Checks of the project as a whole, each a script in tests/project/ that says what it looks at.
function(dvsm_project_test name)
    add_test(NAME project.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/project/${name} ${ARGN})
    set_tests_properties(project.${name} PROPERTIES LABELS unit TIMEOUT 120 SKIP_RETURN_CODE 77)
endfunction()

dvsm_project_test(exported-symbols $<TARGET_FILE:dvsm-shared>)
dvsm_project_test(layers)
dvsm_project_test(engine-alone)
dvsm_project_test(subdirectory)
dvsm_project_test(clang-format)
dvsm_project_test(clang-build ${DVSM_WARNINGS})
dvsm_project_test(header-in-cxx)
dvsm_project_test(one-command)
dvsm_project_test(readme)
dvsm_project_test(install ${CMAKE_BINARY_DIR})
dvsm_project_test(thread-sanitizer $<TARGET_FILE:dvsm-shared> $<TARGET_FILE:dvsm>)

# The suite again under sanitizers, in build directories of their own; each takes the whole machine.
function(dvsm_sanitize_test preset)
    add_test(NAME sanitize.${preset}
        COMMAND ${PROJECT_SOURCE_DIR}/scripts/sanitize ${preset} ${CMAKE_BINARY_DIR}/${preset})
    set_tests_properties(sanitize.${preset} PROPERTIES LABELS sanitize TIMEOUT 2400 PROCESSORS 2)
endfunction()

dvsm_sanitize_test(asan)
file(GLOB thread_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*/test_*thread*.c)
if(thread_tests)
    dvsm_sanitize_test(tsan)
endif()
